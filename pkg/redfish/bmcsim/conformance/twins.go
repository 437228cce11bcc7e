package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// twins makes a certificate of our own for every recorded one: same names,
// usages and validity around the time of the exchange, but with keys we hold.
// So client certificates can be issued by a recorded CA, and a certificate for
// a recorded signing request carries the key of our BMC's request.
type twins struct {
	keys     map[string]crypto.Signer    // by their public key
	requests map[string]crypto.PublicKey // of our BMC, by the public key in their request
	issuers  map[string]*issuer          // by their raw subject
	texts    map[string]string           // their PEM blocks to ours
}

type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newTwins() *twins {
	return &twins{
		keys: map[string]crypto.Signer{}, requests: map[string]crypto.PublicKey{},
		issuers: map[string]*issuer{}, texts: map[string]string{},
	}
}

// learnRequest pairs their signing request with ours.
func (t *twins) learnRequest(theirs, ours string) {
	a, errA := parseRequest(theirs)
	b, errB := parseRequest(ours)
	if errA == nil && errB == nil {
		t.requests[string(a.RawSubjectPublicKeyInfo)] = b.PublicKey
	}
}

func parseRequest(text string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// body is a request's body with the twins of all it holds.
func (t *twins) body(rec recording, text string) (string, error) {
	var o map[string]any
	if json.Unmarshal([]byte(text), &o) != nil {
		return t.chain(rec, text)
	}
	theirs, _ := o["CertificateString"].(string)
	ours, err := t.chain(rec, theirs)
	if err != nil {
		return "", err
	}
	o["CertificateString"] = ours
	out, err := json.Marshal(o)
	return string(out), err
}

func (t *twins) chain(rec recording, text string) (string, error) {
	var out strings.Builder
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		ours, err := t.block(rec, block)
		if err != nil {
			return "", err
		}
		t.texts[string(pem.EncodeToMemory(block))] = ours
		out.WriteString(ours)
	}
	return out.String(), nil
}

// translate puts our blocks for theirs into JSON.
func (t *twins) translate(s string) string {
	for theirs, ours := range t.texts {
		for range 2 { // once as a value, once as a value quoted in a message
			theirs, ours = quote(theirs), quote(ours)
			s = strings.ReplaceAll(s, theirs, ours)
		}
	}
	return s
}

func quote(s string) string {
	text, _ := json.Marshal(s) // a text can be encoded
	return string(text[1 : len(text)-1])
}

func (t *twins) block(rec recording, block *pem.Block) (string, error) {
	if block.Type != "CERTIFICATE" {
		return t.privateKey(block)
	}
	theirs, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("read a recorded certificate: %w", err)
	}
	if ours := t.texts[string(pem.EncodeToMemory(block))]; ours != "" {
		return ours, nil
	}
	der, err := t.issue(rec, theirs)
	if err != nil {
		return "", fmt.Errorf("make the twin of %s: %w", theirs.Subject, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

func (t *twins) privateKey(block *pem.Block) (string, error) {
	var theirs any
	var err error
	ec := block.Type == "EC PRIVATE KEY"
	if ec {
		theirs, err = x509.ParseECPrivateKey(block.Bytes)
	} else {
		theirs, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	signer, isSigner := theirs.(crypto.Signer)
	if err != nil || !isSigner {
		return "", fmt.Errorf("read a recorded key: %w", err)
	}
	ours, err := t.key(signer.Public())
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(ours)
	if key, isEC := ours.(*ecdsa.PrivateKey); ec && isEC {
		der, err = x509.MarshalECPrivateKey(key)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der})), err
}

// key is our key for a recorded public one, of the same kind.
func (t *twins) key(public crypto.PublicKey) (crypto.Signer, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	if key := t.keys[string(spki)]; key != nil {
		return key, nil
	}
	key, err := newKey(public)
	t.keys[string(spki)] = key
	return key, err
}

func newKey(like crypto.PublicKey) (crypto.Signer, error) {
	switch like := like.(type) {
	case *rsa.PublicKey:
		return rsa.GenerateKey(rand.Reader, like.N.BitLen())
	case ed25519.PublicKey:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case *ecdsa.PublicKey:
		return ecdsa.GenerateKey(like.Curve, rand.Reader)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func (t *twins) issue(rec recording, theirs *x509.Certificate) ([]byte, error) {
	shift := time.Duration(0)
	if at, err := http.ParseTime(rec.header()["Date"]); err == nil {
		shift = time.Since(at)
	}
	template := &x509.Certificate{
		SerialNumber: theirs.SerialNumber, RawSubject: theirs.RawSubject,
		NotBefore: theirs.NotBefore.Add(shift - time.Minute), NotAfter: theirs.NotAfter.Add(shift),
		KeyUsage: theirs.KeyUsage, ExtKeyUsage: theirs.ExtKeyUsage, DNSNames: theirs.DNSNames, IPAddresses: theirs.IPAddresses,
		IsCA: theirs.IsCA, BasicConstraintsValid: theirs.BasicConstraintsValid,
	}
	public := t.requests[string(theirs.RawSubjectPublicKeyInfo)]
	if public == nil {
		key, err := t.key(theirs.PublicKey)
		if err != nil {
			return nil, err
		}
		if theirs.IsCA {
			ca := t.issuer(string(theirs.RawSubject))
			if ca.key == nil {
				ca.key = key
			}
			key, ca.cert = ca.key, template
		}
		public = key.Public()
	}
	by := t.issuer(string(theirs.RawIssuer))
	if by.key == nil { // an issuer that was never uploaded itself
		by.cert = &x509.Certificate{RawSubject: theirs.RawIssuer}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		by.key = key
	}
	return x509.CreateCertificate(rand.Reader, template, by.cert, public, by.key)
}

func (t *twins) issuer(subject string) *issuer {
	if t.issuers[subject] == nil {
		t.issuers[subject] = &issuer{}
	}
	return t.issuers[subject]
}

func serial() *big.Int { return big.NewInt(time.Now().UnixNano()) }
