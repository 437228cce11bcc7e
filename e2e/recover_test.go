package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// An agent's spool, sealing key and rack authority are lost, and with them every way
// into its BMC but the escrow: with the recovery key a fresh state directory has it
// again, and nothing on the BMC is changed for it.
func TestALostAgentIsRecovered(t *testing.T) {
	t.Parallel()
	d := newDrill(t, bmcsim.Config{})
	first := d.agent() // writes agent.yaml, as a person would
	first.wait(allTaken)
	first.interrupt()
	key := filepath.Join(t.TempDir(), "recovery.key")
	public := d.beside("agent", "recovery-key", "--out", key).wait("recovery: ")
	dir := filepath.Join(d.dir, "agent")
	config, err := os.ReadFile(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(filepath.Join(dir, "agent.yaml"), append(config, []byte("\n"+public+"\n")...), 0o600); err != nil {
		t.Fatal(err)
	}
	escrow := filepath.Join(dir, "escrow.json")
	second := d.beside("agent", "--state", dir)
	second.wait("linked to a coordinator")
	d.until("there is an escrow", func() bool { _, statErr := os.Stat(escrow); return statErr == nil })
	second.kill()
	text, err := os.ReadFile(escrow)
	if err != nil {
		t.Fatal(err)
	}
	copied := d.file("escrow.json", string(text))

	d.arm(moment{}, func() *process { return nil })
	for _, lost := range []string{"spool.db", "seal.key", "rack-ca", "escrow.json"} {
		if err := os.RemoveAll(filepath.Join(dir, lost)); err != nil {
			t.Fatal(err)
		}
	}
	wrong := filepath.Join(t.TempDir(), "wrong.key")
	d.beside("agent", "recovery-key", "--out", wrong).ended()
	refused := d.beside("agent", "recover", copied, "--key", wrong, "--state", dir)
	if code := refused.ended(); code != 1 || !strings.Contains(refused.out.String(), "does not open it") {
		t.Errorf("with another key: exit %d\n%s", code, refused.out)
	}
	recovered := d.beside("agent", "recover", copied, "--key", key, "--state", dir)
	recovered.wait("recovered 1 BMCs as they were at ")
	if code := recovered.ended(); code != 0 {
		t.Errorf("recover: exit %d", code)
	}
	last := d.agent()
	last.wait(allTaken)
	d.linked()
	d.taken(1)
	if did := d.disarm(); len(did) > 0 {
		t.Errorf("the BMC was changed: %v", did)
	}
	last.interrupt()
	d.ours()
}
