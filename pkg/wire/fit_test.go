package wire_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

func textOf(s string) *pb.Value { return &pb.Value{Kind: &pb.Value_Text{Text: s}} }

func TestWhatFitsIsLeftAlone(t *testing.T) {
	r := &pb.Result{Step: strings.Repeat("x", 1<<20), Body: bytes.Repeat([]byte("b"), 900<<10)}
	before := proto.Clone(r)
	if wire.Fit(r); !proto.Equal(r, before) {
		t.Error("it was changed")
	}
}

func TestWhatDoesNotFitIsMadeTo(t *testing.T) {
	long := strings.Repeat("ä", 4<<20)
	many := make([]*pb.Reading, 5000)
	for i := range many {
		many[i] = &pb.Reading{Ref: "x", Value: textOf(strings.Repeat("y", 2000))}
	}
	for name, m := range map[string]proto.Message{
		"a long value":    &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Node: "n1", Readings: []*pb.Reading{{Ref: "x", Value: textOf(long)}}}}},
		"a long instance": &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Node: "n1", Readings: []*pb.Reading{{Instances: []*pb.Instance{{Value: textOf(long)}}}}}}},
		"a long error":    &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Node: "n1", Error: long}}},
		"many values":     &pb.Record{Body: &pb.Record_Result{Result: &pb.Result{Node: "n1", Readings: many, Body: []byte("x")}}},
		"a firing":        &pb.Record{Body: &pb.Record_Firing{Firing: &pb.Firing{Node: "n1", Results: []*pb.Result{{Node: "n1", Readings: many}, {After: long}}}}},
		"a change":        &pb.QueryEvent{Body: &pb.QueryEvent_Change{Change: &pb.Change{Node: "n1", Before: long}}},
	} {
		t.Run(name, func(t *testing.T) {
			wire.Fit(m)
			if n := proto.Size(m); n > wire.MaxRecord {
				t.Errorf("it still has %d bytes", n)
			}
			raw, err := proto.Marshal(m)
			if err != nil || !bytes.Contains(raw, []byte("n1")) || !utf8.ValidString(long) {
				t.Errorf("it is no longer what it was: %v", err)
			}
		})
	}
}
