package fault_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

func TestKindOf(t *testing.T) {
	inner := fault.New(fault.Timeout, "read cpu.temp", "no answer in 10s").WithHint("check the BMC's network")
	tests := map[string]struct {
		err  error
		kind fault.Kind
		hint string
	}{
		"nil":                       {nil, "", ""},
		"plain error":               {errors.New("x"), fault.Internal, ""},
		"wrapped by fmt":            {fmt.Errorf("show: %w", inner), fault.Timeout, "check the BMC's network"},
		"the outermost kind counts": {fault.Wrap(fault.Unavailable, "sample", inner), fault.Unavailable, "check the BMC's network"},
		"context ran out":           {fmt.Errorf("x: %w", context.DeadlineExceeded), fault.Timeout, ""},
		"somebody stopped it":       {context.Canceled, fault.Canceled, ""},
	}
	for name, test := range tests {
		if kind, hint := fault.KindOf(test.err), fault.HintOf(test.err); kind != test.kind || hint != test.hint {
			t.Errorf("%s: kind %q, hint %q; want %q, %q", name, kind, hint, test.kind, test.hint)
		}
	}
}

func TestErrorText(t *testing.T) {
	err := &fault.Error{Kind: fault.Denied, Op: "log in", Node: "r01-u04", Err: errors.New("invalid username or password")}
	if got, want := err.Error(), "r01-u04: log in: invalid username or password"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (&fault.Error{Kind: fault.Denied}).Error(); got != "denied" {
		t.Errorf("an error without a cause says %q", got)
	}
	if fault.Wrap(fault.Denied, "log in", nil) != nil {
		t.Error("wrapping no error made one")
	}
}
