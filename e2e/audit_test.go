package e2e_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// record is one of the audit log.
type record struct{ By, What, Subject, Detail string }

func (w *world) audit() []record {
	w.t.Helper()
	var log []record
	w.decode(&log, "audit", "log")
	return log
}

// Coordinators that come back with another history than the one they told: the
// person who verifies it sees that, and so does the rack's agent.
func TestThreat33HistoryLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.dev()
	w.must("apply", "--yes", w.file("tag.scl", `(config "r01-u04" (asset-tag "one"))`))
	first := w.must("audit", "verify")
	if !strings.Contains(first, "signed by coordinator c1") || !strings.Contains(first, "for the first time") {
		t.Errorf("at first it says:\n%s", first)
	}
	if again := w.must("audit", "verify"); !strings.Contains(again, "goes on from the") {
		t.Errorf("then it says:\n%s", again)
	}
	var whats []string
	for _, r := range w.audit() {
		if r.What != "trust" { // the take-overs go on meanwhile
			whats = append(whats, r.What+" by "+strings.Fields(r.By)[0])
		}
	}
	if diff := cmp.Diff([]string{"policy by coordinator", "join by agent", "apply by operator"}, whats); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	p.interrupt()
	if err := os.RemoveAll(filepath.Join(w.dir, "coordinator", "raft")); err != nil {
		t.Fatal(err)
	}
	w.dev()
	w.linked()
	if lost := w.run("audit", "verify"); lost.code != 1 || !strings.Contains(lost.stderr, "seen here before") || !strings.Contains(lost.stderr, "hint:") {
		t.Errorf("history is lost, and it says: exit %d\n%s%s", lost.code, lost.stdout, lost.stderr)
	}
	w.must("apply", "--yes", w.file("tag.scl", `(config "r01-u04" (asset-tag "two"))`))
	w.until("the agent raises an alarm", func() bool {
		return slices.ContainsFunc(w.audit(), func(r record) bool {
			return r.What == "refuse" && r.Subject == "checkpoint" && strings.Contains(r.Detail, "not a continuation")
		})
	})
}

// A password that a person types is nowhere to be read: not in a file of the
// fleet, not in what it says with --verbose, not in what any command prints, and
// not in what an agent leaves behind when it is made to crash.
func TestThreat36CanaryIsNowhere(t *testing.T) {
	t.Parallel()
	const canary = "C4naryPw9"
	w := newWorld(t)
	p := w.dev("--verbose")
	script := w.file("pass.scl", strings.ReplaceAll(`; once it was (password "CANARY")
(config "r01-u04" (bmc (user "root" (password "CANARY"))))`, "CANARY", canary))
	prepared := filepath.Join(w.dir, "prepared.dsse")
	var all strings.Builder
	said := w.must("plan", script) + w.must("apply", "--prepare", prepared, script) + w.must("apply", "--yes", script) + w.must("plan", script)
	if !strings.Contains(said, "confirmed") {
		t.Fatalf("the password was not set:\n%s", said)
	}
	// Moved to another field, or under another name, it does not open.
	var kept struct{ Source string }
	w.decode(&kept, "get", "script", "pass")
	moved := w.run("apply", "--yes", w.file("moved.scl", kept.Source))
	if moved.code == 0 || !strings.Contains(moved.stdout+moved.stderr, "another use") {
		t.Errorf("a sealed password was moved to another script: exit %d\n%s%s", moved.code, moved.stdout, moved.stderr)
	}
	for _, args := range [][]string{
		{"get", "script", "pass", "-o", "yaml"},
		{"get", "runs", "-o", "json"},
		{"get", "run", "R1", "-o", "json"},
		{"get", "nodes", "-o", "yaml"},
		{"audit", "log", "-o", "json"},
		{"show", "r01-u04"},
		{"get", "firings"},
	} {
		got := w.run(args...)
		all.WriteString(got.stdout + got.stderr)
	}
	if err := p.cmd.Process.Signal(syscall.SIGABRT); err != nil { // the runtime writes every stack and ends
		t.Fatal(err)
	}
	<-p.done
	p.wait("goroutine ")
	said += all.String() + p.out.String() + moved.stdout + moved.stderr
	if strings.Contains(said, canary) {
		t.Errorf("it was said:\n%s", said)
	}
	w.dev() // a snapshot is taken when it stops, and what was recovered is written
	w.nothingHolds(canary)
}

// nothingHolds searches every file of the fleet but the flash of the simulated BMCs,
// which hold what they were told, hashed.
func (w *world) nothingHolds(canary string) {
	w.t.Helper()
	files := 0
	err := filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), canary) {
			w.t.Errorf("%s holds the password", path)
		}
		files++
		return err
	})
	if err != nil || files < 20 {
		w.t.Errorf("searched %d files: %v", files, err)
	}
}
