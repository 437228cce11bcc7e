// Package sign lets only what authors have signed be done. An order (pkg/order)
// travels in a DSSE envelope (github.com/secure-systems-lab/dsse, version 1) with
// ed25519 signatures; a Policy says whose signatures count and how many there
// must be, and is itself signed by the root keys that every agent was given.
//
// Coordinators distribute envelopes and check them at their door. An agent checks
// them again with its own root, and believes nobody.
package sign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
)

const (
	maxEnvelope   = 64 << 10 // bytes
	maxSignatures = 32
)

// payload signs data as something of the type kind.
func payload(kind string, data []byte, keys ...*Key) ([]byte, error) {
	signers := make([]dsse.Signer, len(keys))
	for i, k := range keys {
		signers[i] = signer{k}
	}
	s, err := dsse.NewEnvelopeSigner(signers...)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "sign", err)
	}
	e, err := s.SignPayload(context.Background(), kind, data)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, "sign", err)
	}
	return json.Marshal(e)
}

// Order signs an order.
func Order(o order.Order, keys ...*Key) ([]byte, error) {
	data, err := o.Encode()
	if err != nil {
		return nil, err
	}
	return payload(order.PayloadType, data, keys...)
}

// Add adds a signature to an envelope. One by the same key is replaced.
func Add(envelope []byte, key *Key) ([]byte, error) {
	e, err := parse(envelope)
	if err != nil {
		return nil, err
	}
	data, err := e.DecodeB64Payload()
	if err != nil {
		return nil, fault.New(fault.Garbage, "read envelope", err.Error())
	}
	more, err := payload(e.PayloadType, data, key)
	if err != nil {
		return nil, err
	}
	fresh, err := parse(more)
	if err != nil {
		return nil, err
	}
	id := key.Public().ID()
	e.Signatures = slices.DeleteFunc(e.Signatures, func(s dsse.Signature) bool { return s.KeyID == id })
	e.Signatures = append(e.Signatures, fresh.Signatures...)
	return json.Marshal(e)
}

// Peek reads the order in an envelope without verifying anything: to show it to
// a person who is about to sign it, or to say of what an error speaks.
func Peek(envelope []byte) (order.Order, error) {
	e, err := parse(envelope)
	if err != nil {
		return order.Order{}, err
	}
	if e.PayloadType != order.PayloadType {
		return order.Order{}, wrongType(e.PayloadType)
	}
	data, err := e.DecodeB64Payload()
	if err != nil {
		return order.Order{}, fault.New(fault.Garbage, "read envelope", err.Error())
	}
	return order.Decode(data)
}

func parse(envelope []byte) (*dsse.Envelope, error) {
	const op = "read envelope"
	if len(envelope) == 0 {
		return nil, fault.New(fault.Untrusted, op, "it is not signed").WithHint("apply it with a chiba that has an author key")
	}
	if len(envelope) > maxEnvelope {
		return nil, fault.New(fault.TooLarge, op, fmt.Sprintf("it has more than %d KiB", maxEnvelope>>10))
	}
	var e dsse.Envelope
	if err := json.Unmarshal(envelope, &e); err != nil {
		return nil, fault.New(fault.Garbage, op, err.Error())
	}
	if len(e.Signatures) > maxSignatures {
		return nil, fault.New(fault.TooLarge, op, fmt.Sprintf("it has more than %d signatures", maxSignatures))
	}
	return &e, nil
}

func wrongType(kind string) error {
	return fault.New(fault.Untrusted, "verify envelope", fmt.Sprintf("it holds something else: %.80q", kind))
}

// open verifies an envelope and returns what was signed.
func (k Keys) open(kind string, envelope []byte, threshold int) (data []byte, signers []string, err error) {
	const op = "verify envelope"
	e, err := parse(envelope)
	if err != nil {
		return nil, nil, err
	}
	if e.PayloadType != kind {
		return nil, nil, wrongType(e.PayloadType)
	}
	verifiers := make([]dsse.Verifier, len(k.Authors))
	for i, a := range k.Authors {
		verifiers[i] = verifier{a.Key}
	}
	v, err := dsse.NewMultiEnvelopeVerifier(threshold, verifiers...)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Internal, op, err)
	}
	accepted, data, err := v.VerifyAndDecode(context.Background(), e)
	signers = k.names(accepted)
	if err != nil {
		return nil, nil, tooFew(signers, threshold)
	}
	return data, signers, nil
}

// names are the authors whose signatures were accepted.
func (k Keys) names(accepted []dsse.AcceptedKey) (names []string) {
	for _, a := range k.Authors {
		if slices.ContainsFunc(accepted, func(x dsse.AcceptedKey) bool { return x.KeyID == a.Key.ID() }) {
			names = append(names, a.Name)
		}
	}
	return names
}

func tooFew(signers []string, threshold int) error {
	who := "by nobody who may"
	if len(signers) > 0 {
		who = "by " + strings.Join(signers, " and ") + " alone"
	}
	return fault.New(fault.Untrusted, "verify envelope", fmt.Sprintf("it is signed %s, and %d must sign", who, threshold)).
		WithHint("prepare it with: chiba apply --prepare FILE.dsse, have it signed with: chiba sign FILE.dsse")
}

// decode reads one JSON value strictly. An error says where it is.
func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", position(data, offset(data, err)), err)
	}
	end := d.InputOffset()
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		rest := bytes.TrimLeft(data[end:], " \t\r\n")
		return fmt.Errorf("%s: something follows it", position(data, int64(len(data)-len(rest))))
	}
	return nil
}

// offset is where an error of decoding data is, in bytes.
func offset(data []byte, err error) int64 {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return max(syntax.Offset-1, 0) // it counts the byte that is wrong
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return kind.Offset
	}
	// The library tells no place of a field that it does not know, only its name.
	if _, name, ok := strings.Cut(err.Error(), "unknown field "); ok {
		return max(int64(bytes.Index(data, []byte(name))), 0)
	}
	return int64(len(data)) // it ended too early
}

// position is an offset as a person looks for it.
func position(data []byte, at int64) string {
	before := data[:min(at, int64(len(data)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len([]rune(string(before[bytes.LastIndexByte(before, '\n')+1:]))) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}
