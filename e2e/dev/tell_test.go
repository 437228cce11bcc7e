package dev

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/obs"
)

func TestAPersonIsToldInShortLines(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newTeller(&out))
	log.Info("agent starts")
	agent := log.With(obs.Agent, "agent-r01").WithGroup("g")
	agent.Warn("rule fired", obs.Script, "thermal", obs.Rule, "m1", obs.Node, "ai-node-0", obs.Reason, "")
	agent.Warn("rule fired", obs.Script, "thermal", obs.Rule, "m1", obs.Node, "ai-node-0", obs.Reason, "limit of 2 in 1h")
	agent.Warn("no link to the coordinators", obs.Addr, "127.0.0.1:7443", obs.Err, errors.New("no answer\x1b[31m"))
	log.Error("a run stopped", obs.Run, "R7")
	log.Error("on fire")

	var got strings.Builder
	for line := range strings.Lines(out.String()) {
		got.WriteString(line[len("15:04:05"):])
	}
	want := `  rule fired: thermal/m1 on ai-node-0
  rule fired: thermal/m1 on ai-node-0, held back: limit of 2 in 1h
  no link to the coordinators: agent=agent-r01 addr=127.0.0.1:7443 err="no answer\x1b[31m"
  error: a run stopped: run=R7
  error: on fire
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
