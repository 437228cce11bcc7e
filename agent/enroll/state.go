package enroll

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/enroll"
)

// StateFile is the join state in an agent's state directory.
const StateFile = "join.json"

// State is where an agent stands with its renewals. It is on disk before anything is
// asked or used by it: two copies of a disk can't both know what comes next.
type State struct {
	Counter uint64 `json:"counter"`        // renewals, enrolment included
	Mark    []byte `json:"mark,omitempty"` // of the last one
	Next    []byte `json:"next,omitempty"` // chosen for one that was asked for and not answered
	Token   string `json:"token,omitempty"`
}

// ReadState reads the state in the file path; without a file it is the first one.
func ReadState(path string) (s State, err error) {
	const op = "read the join state"
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return State{}, fault.Wrap(fault.Unavailable, op, err)
	}
	if err = json.Unmarshal(text, &s); err != nil {
		return State{}, fault.New(fault.Garbage, op, path+" is damaged: "+err.Error()).
			WithHint("join anew: chiba trust token create --replace, then chiba agent join")
	}
	return s, nil
}

func (s State) write(path string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fault.Wrap(fault.Internal, "keep the join state", err)
	}
	return fault.Wrap(fault.Unavailable, "keep the join state", trust.WriteFile(path, 0o600, text))
}

// Ask is the state to ask for a renewal with; it is then on disk in the file path.
func (s *State) Ask(path string) (*pb.JoinState, error) {
	if len(s.Next) == 0 {
		asked := *s
		asked.Next = make([]byte, enroll.MarkSize)
		_, _ = rand.Read(asked.Next) // never fails, see its documentation
		if err := asked.write(path); err != nil {
			return nil, err
		}
		*s = asked
	}
	return &pb.JoinState{Counter: s.Counter, Mark: s.Mark, Next: s.Next}, nil
}

// Answered is told the counter that came with a certificate, before that is used.
// An answer that comes twice changes nothing.
func (s *State) Answered(path string, counter uint64) error {
	if len(s.Next) == 0 && counter == s.Counter {
		return nil
	}
	if len(s.Next) == 0 || counter < s.Counter {
		return fault.New(fault.Conflict, "take a renewed certificate", "nobody has asked for it")
	}
	next := State{Counter: counter, Mark: s.Next, Token: s.Token}
	if err := next.write(path); err != nil {
		return err
	}
	*s = next
	return nil
}
