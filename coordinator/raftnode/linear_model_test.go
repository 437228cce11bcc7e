package raftnode_test

import (
	"fmt"
	"strconv"

	"github.com/anishathalye/porcupine"
)

// asked is one operation on one key. The key "runs" is the counter of runs, "rack" the
// ownership of a rack, those with a "g" are two groups of nodes that are read together,
// those with a "d" subjects that may be denied, and all others unsigned scripts.
type asked struct {
	key, what, value string // what: "put", "remove", "read", "run", "order", "end", "claim", "deny", "allow"
	which            int    // of two groups
	version          uint64 // of a signed order; of the epoch of a claim
	grant            uint64 // that a claim follows
}

// said is what came of it.
type said struct {
	value   string // the number of the run
	read    place
	again   bool // the order was carried out before
	stale   bool // the order is not newer than another, the claim not above it
	missing bool // there was nothing to be ended
	unknown bool // it may or may not have been done
}

// place is what is known of a key: of two groups, or of one thing, which is the first.
type place [2]thing

// thing is a script, a group, the owner of a rack, a subject or a counter.
type thing struct {
	value   string // empty: it is not there
	version uint64 // of the last order
	ended   uint64 // the version of the order that ended it last
}

// seen is what a client can see of a place.
func (p place) seen() place {
	for i := range p {
		p[i].ended = 0
		if p[i].value == "" {
			p[i].version = 0
		}
	}
	return p
}

// fleet is what a client may rely on: each key is a place of its own.
var fleet = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, o := range all {
			key := o.Input.(asked).key
			by[key] = append(by[key], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range by {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return place{} },
	Step: func(state, input, output any) (bool, any) {
		is, in, out := state.(place), input.(asked), output.(said)
		if in.what == "read" {
			return out.unknown || out.read == is.seen(), is
		}
		should, next := in.do(is[in.which])
		if !out.unknown && should != out {
			return false, is
		}
		is[in.which] = next
		return true, is
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// do is what an operation should answer, and make of a thing.
func (in asked) do(is thing) (should said, next thing) {
	next = is
	switch in.what {
	case "put":
		next.value = in.value
	case "remove":
		should.missing, next.value = is.value == "", ""
	case "run":
		n, _ := strconv.Atoi(is.value)
		next.value = strconv.Itoa(n + 1)
		should.value = "R" + next.value
	case "order":
		should.again = is.version == in.version && is.value == in.value
		should.stale = !should.again && in.version <= is.version
		if !should.stale {
			next.value, next.version = in.value, in.version
		}
	case "end":
		should.again = is.ended == in.version
		should.missing = !should.again && is.value == ""
		should.stale = !should.again && !should.missing && in.version <= is.version
		if should == (said{}) {
			next = thing{version: in.version, ended: in.version}
		}
	case "claim":
		if should.stale = in.version <= is.version; !should.stale {
			next.value, next.version = in.value, in.version
		}
	case "deny":
		next.value = "denied"
	case "allow":
		should.missing, next.value = is.value == "", ""
	}
	return should, next
}
