package discover

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/discovery"
	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/fault"
)

// try runs the command with arguments and returns its output and its error.
func try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := cli.NewRoot()
	root.AddCommand(Command())
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append([]string{"discover"}, args...))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args, want string
	}{
		{"eth0", "takes no argument"},
		{"--interface no-such-interface", "no-such-interface"},
		{"--cidr 10.0.0.0/8", "more than 4096"},
		{"--cidr rack-7", "neither an address nor a range"},
		{"--for 0s", "--for 0s"},
		{"--no-mdns --no-ssdp --no-neighbours", "every way to look is switched off"},
	} {
		_, err := try(t, strings.Fields(c.args)...)
		if cli.Code(err) != cli.Usage || !strings.Contains(err.Error(), c.want) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q)", c.args, err, fault.HintOf(err))
		}
	}
}

// On the loopback, with nobody there, it ends in time and says what to do.
func TestNobodyThere(t *testing.T) {
	out, err := try(t, "--no-mdns", "--no-ssdp", "--no-neighbours", "--cidr", "127.77.0.1", "--for", "300ms")
	if err != nil || !strings.Contains(out, "no BMC found; --interface") {
		t.Errorf("%v\n%s", err, out)
	}
}

// found is a table with one of each kind.
func found() *discovery.Table {
	now := time.Now()
	t := &discovery.Table{}
	see := func(s discovery.Sighting, a discovery.Answer, err error) {
		t.See(now, s)
		t.Answered(now, s.Address, a, err)
	}
	const pin = "sha256/AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	bmc := discovery.Answer{Pin: pin, Root: discovery.Root{Vendor: "Acme", Product: "X1", UUID: "u1", Version: "1.17.0"}}
	see(discovery.Sighting{Address: "[fe80::5%eth1]:443", Found: "mdns", Name: "redfish on bmc-5", Service: "_redfish._tcp", Hint: "type=Server"}, bmc, nil)
	see(discovery.Sighting{Address: "10.0.0.5:443", Found: "ssdp", Service: "urn"}, bmc, nil)
	see(discovery.Sighting{Address: "10.0.0.6:443", Found: "mdns", Name: "ghost"}, discovery.Answer{}, errors.New("connection refused"))
	see(discovery.Sighting{Address: "10.0.0.7:443", Found: "neighbours"}, discovery.Answer{}, errors.New("connection refused"))
	see(discovery.Sighting{Address: "10.0.0.8:443", Found: "neighbours"}, discovery.Answer{Pin: "printer", Root: discovery.Root{Problem: "no service root: it answered with HTTP 404"}}, nil)
	t.See(now, discovery.Sighting{Found: "mdns", Note: "an answer from off the link eth1 was dropped"})
	return t
}

func TestReport(t *testing.T) {
	for format, want := range map[string]string{
		"table": `
ADDRESS           NAME              FOUND      KEY                   PRODUCT  ODD
10.0.0.5:443 +1   redfish on bmc-5  mdns,ssdp  sha256/AAECAwQFBgcI…  Acme X1  -
10.0.0.6:443      ghost             mdns       -                     -        does not answer: connection refused
chiba: note: mdns: an answer from off the link eth1 was dropped
chiba: note: ssdp: the port is taken
chiba: note: 3 addresses were not asked, there was no time: look longer with --for 10s
chiba: note: 2 more addresses did not answer as BMCs, --why names them
`,
		"name": `
10.0.0.5:443
10.0.0.6:443
`,
	} {
		t.Run(format, func(t *testing.T) {
			cmd := &cobra.Command{}
			cmd.Flags().String("output", format, "")
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			r := Result{Table: found(), Finders: 2, Failed: map[string]error{"ssdp": errors.New("the port is taken")}, Unasked: 3}
			if err := report(cmd, options{window: 2 * time.Second}, r); err != nil {
				t.Fatal(err)
			}
			got, _, _ := strings.Cut(out.String(), "chiba: note")
			if format == "table" {
				got = out.String()
			}
			if diff := cmp.Diff(normal(want), normal(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// normal is text without the width of its columns.
func normal(s string) string {
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(s)) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestEveryFinderFails(t *testing.T) {
	r := Result{Table: &discovery.Table{}, Finders: 1, Failed: map[string]error{"mdns": errors.New("no socket")}}
	if err := report(&cobra.Command{}, options{}, r); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("got %v", err)
	}
}

// A flood of announcements does not bury those that answer.
func TestFewOfTheSilentAreShown(t *testing.T) {
	table := found()
	for i := range 200 {
		table.See(time.Now(), discovery.Sighting{Address: "10.1.0." + string(rune('0'+i%10)) + string(rune('0'+i/10)) + ":443", Found: "mdns"})
	}
	if all, others := list(table); len(all) != 1+maxSilent || all[0].Pin == "" || others < 100 {
		t.Errorf("%d shown, %d counted", len(all), others)
	}
}
