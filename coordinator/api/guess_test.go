package api_test

import (
	"testing"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

// An operator who types one wrong code after the other is stopped, also at the right
// one: with the certificate of one nobody can find a code that a machine shows.
func TestThreat31WrongCodesAreCounted(t *testing.T) {
	w := newWorld(t)
	judge := func(code string) error {
		_, err := w.fleet.JudgeJoin(t.Context(), connect.NewRequest(&pb.JudgeJoinRequest{Code: code, Look: true}))
		return err
	}
	for i := range 10 {
		if code := connect.CodeOf(judge("BBBB-BBBB")); code != connect.CodeNotFound {
			t.Fatalf("wrong code %d: %s", i+1, code)
		}
	}
	err := judge("BBBB-BBBC")
	if connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("the eleventh, of kind %s: %v", fault.KindOf(err), err)
	}
}
