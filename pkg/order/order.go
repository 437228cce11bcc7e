// Package order says what an author signs: an Order tells agents to do a script
// once, to keep it in force, to end its force, or to stop a run. An order names
// the exact bytes of the script by their digest; the bytes travel beside it.
//
// An order is JSON in a DSSE envelope (trust/sign). Decoding is strict, because
// what a reader does not understand could be a limit that the author has set.
package order

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// PayloadType is the type of an order in its envelope.
const PayloadType = "application/vnd.chiba.script+json"

// Fleet stands for every rack in an audience.
const Fleet = "*"

const (
	maxOrder = 32 << 10 // bytes of JSON
	maxName  = 253
	maxFile  = 1024
)

// MostRacks is how many racks an audience names; an order for more is for the Fleet.
const MostRacks = 256

// Kind is what is to be done.
type Kind string

// The kinds.
const (
	Standing Kind = "standing" // keep the script in force, and do once what is done once
	Run      Kind = "run"      // do the script once; whatever stood under its name ends
	Remove   Kind = "remove"   // end the force of the script
	Cancel   Kind = "cancel"   // stop the run that the order Cancels has begun
	// Catalogue puts a site catalogue (pkg/catalogue) into force.
	Catalogue Kind = "catalogue"
)

// Kinds are all kinds.
func Kinds() []Kind { return []Kind{Standing, Run, Remove, Cancel, Catalogue} }

// Order is one order.
type Order struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"` // of the script
	// Version grows with every order for one name. Agents keep the highest and
	// obey nothing older. It is the author's clock in ms, or one more than the
	// last, so that no authors need agree on a number.
	Version  uint64   `json:"version"`
	Audience []string `json:"audience"` // racks, or Fleet

	// What follows is of Standing and Run. NotAfter is the deadline of what is done
	// once; an agent does not begin it later. What stands has no end.
	NotAfter   time.Time `json:"notAfter,omitzero"`
	File       string    `json:"file,omitempty"`       // for diagnostics
	Digest     string    `json:"digest,omitempty"`     // hex SHA-256 of the source
	AllowEmpty bool      `json:"allowEmpty,omitempty"` // a target may match no node
	Only       []string  `json:"only,omitempty"`       // nodes that what is done once is done on; none: all that it concerns

	Cancels uint64 `json:"cancels,omitempty"` // of Cancel: the version of the order that began the run
	Parts   string `json:"parts,omitempty"`   // of Catalogue: the root over its parts; Digest is that of the whole
}

// Digest is the digest of a source as an order holds it.
func Digest(source []byte) string {
	sum := sha256.Sum256(source)
	return hex.EncodeToString(sum[:])
}

// Next is the version of an order that is signed now, after last.
func Next(now time.Time, last uint64) uint64 { return max(uint64(now.UnixMilli()), last+1) }

// For reports whether the order is meant for a rack.
func (o Order) For(rack string) bool {
	return slices.Contains(o.Audience, rack) || slices.Contains(o.Audience, Fleet)
}

// Scripted reports whether the order comes with a script.
func (o Order) Scripted() bool { return o.Kind == Standing || o.Kind == Run }

// String is the order in one line, for a person.
func (o Order) String() string {
	what := map[Kind]string{Standing: "keep in force", Run: "do once", Remove: "remove", Cancel: "cancel the run of", Catalogue: "put into force the site"}[o.Kind]
	text := fmt.Sprintf("%s %s, version %d, for %s", what, o.Name, o.Version, audience(o.Audience))
	if len(o.Only) > 0 {
		text += ", only on " + strings.Join(o.Only, " ")
	}
	if !o.NotAfter.IsZero() {
		text += ", begun until " + o.NotAfter.UTC().Format(time.RFC3339)
	}
	return text
}

func audience(racks []string) string {
	if slices.Contains(racks, Fleet) {
		return "the whole fleet"
	}
	return strings.Join(racks, " ")
}

// Encode is the order as it is signed.
func (o Order) Encode() ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, fault.New(fault.BadInput, "write order", err.Error())
	}
	return json.Marshal(o)
}

// Decode reads what Encode wrote. Unknown fields, several values and an order that
// makes no sense are errors.
func Decode(data []byte) (Order, error) {
	const op = "read order"
	var o Order
	if len(data) > maxOrder {
		return Order{}, fault.New(fault.TooLarge, op, fmt.Sprintf("it has more than %d KiB", maxOrder>>10))
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return Order{}, fault.New(fault.Garbage, op, err.Error())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Order{}, fault.New(fault.Garbage, op, "something follows it")
	}
	if err := o.check(); err != nil {
		return Order{}, fault.New(fault.BadInput, op, err.Error())
	}
	return o, nil
}

func (o Order) check() error {
	switch {
	case !slices.Contains(Kinds(), o.Kind):
		return fmt.Errorf("its kind %q is not known", o.Kind)
	case !printable(o.Name, maxName) || o.Name == "":
		return errors.New("its name is missing, too long or can't be printed")
	case !printable(o.File, maxFile):
		return errors.New("the name of its file is too long or can't be printed")
	case o.Version == 0:
		return errors.New("its version is missing")
	case len(o.Audience) == 0 || len(o.Audience) > MostRacks || slices.Contains(o.Audience, ""):
		return fmt.Errorf("its audience is not 1 to %d racks", MostRacks)
	case o.Scripted() == o.NotAfter.IsZero():
		return errors.New("its notAfter does not fit its kind")
	case (o.Scripted() || o.Kind == Catalogue) != (len(o.Digest) == 2*sha256.Size):
		return errors.New("its digest does not fit its kind")
	case !o.Scripted() && len(o.Only) > 0 || slices.ContainsFunc(o.Only, func(n string) bool { return n == "" || !printable(n, maxName) }):
		return errors.New("the nodes that it is only for don't fit its kind, or have no names")
	case (o.Kind == Catalogue) != (o.Parts != "") || !printable(o.Parts, maxName):
		return errors.New("its parts don't fit its kind")
	case (o.Kind == Cancel) != (o.Cancels != 0):
		return errors.New("what it cancels does not fit its kind")
	}
	return nil
}

func printable(s string, most int) bool {
	return len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
