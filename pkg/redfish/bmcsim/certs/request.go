package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

// Algorithms a signing request can be made with.
const (
	EC  = "EC"
	RSA = "RSA"
)

const rsaBits = 2048 // the only size OpenBMC takes

// Keys are the private keys behind signing requests, as PEM. EC is the key of
// the last request alone: a certificate for an earlier one can't be installed
// any more. RSA is made once and kept for ever.
type Keys struct{ EC, RSA string }

// Request is what GenerateCSR asks for.
type Request struct {
	CommonName, City, State, Country, Organization, Unit string

	Alternatives []string
	Usage        string // "ServerAuthentication"
	Algorithm    string // EC or RSA
	Curve        string // OpenSSL's name; "" is secp384r1
}

// Make answers with a signing request as PEM and leaves its key in keys.
//
// Like OpenBMC's it has no extensions: alternative names, the algorithm and
// the usage are parts of the subject, so whoever signs must set them anew.
func (r Request) Make(keys *Keys, random io.Reader) (string, error) {
	if len(r.Country) != 2 {
		return "", fmt.Errorf("country %q is not of two letters", r.Country)
	}
	key, err := r.key(keys, random)
	if err != nil {
		return "", err
	}
	subject, err := asn1.Marshal(r.subject())
	if err != nil {
		return "", fmt.Errorf("encode the subject: %w", err)
	}
	template := &x509.CertificateRequest{RawSubject: subject, SignatureAlgorithm: x509.ECDSAWithSHA256}
	if r.Algorithm == RSA {
		template.SignatureAlgorithm = x509.SHA256WithRSA
	}
	der, err := x509.CreateCertificateRequest(random, template, key)
	if err != nil {
		return "", fmt.Errorf("sign the request: %w", err)
	}
	return string(pemText("CERTIFICATE REQUEST", der)), nil
}

func (r Request) key(keys *Keys, random io.Reader) (crypto.Signer, error) {
	if r.Algorithm == RSA {
		if keys.RSA != "" {
			return parseKey(keys.RSA)
		}
		key, err := rsa.GenerateKey(random, rsaBits)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		keys.RSA, err = keyText(key)
		return key, err
	}
	curve, err := curveOf(r.Curve)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(curve, random)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	keys.EC, err = keyText(key)
	return key, err
}

func curveOf(name string) (elliptic.Curve, error) {
	switch name {
	case "prime256v1":
		return elliptic.P256(), nil
	case "", "secp384r1":
		return elliptic.P384(), nil
	case "secp521r1":
		return elliptic.P521(), nil
	}
	return nil, fmt.Errorf("there is no curve %q", name)
}

// subject is in the order of OpenBMC's certificate manager.
func (r Request) subject() pkix.RDNSequence {
	var names pkix.RDNSequence
	add := func(value string, oid ...int) {
		if value != "" {
			names = append(names, pkix.RelativeDistinguishedNameSET{{Type: oid, Value: utf8(value)}})
		}
	}
	for _, name := range r.Alternatives {
		add(name, 2, 5, 29, 17)
	}
	add(r.City, 2, 5, 4, 7)
	add(r.CommonName, 2, 5, 4, 3)
	names = append(names, pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 5, 4, 6}, Value: r.Country}})
	add(r.Algorithm, 1, 3, 14, 3, 2)
	add(r.Usage, 2, 5, 29, 37)
	add(r.Organization, 2, 5, 4, 10)
	add(r.Unit, 2, 5, 4, 11)
	add(r.State, 2, 5, 4, 8)
	return names
}

// utf8 is a text that asn1 must not shorten to a PrintableString.
func utf8(s string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagUTF8String, Bytes: []byte(s)}
}

func keyText(key crypto.Signer) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode the key: %w", err)
	}
	return string(pemText("PRIVATE KEY", der)), nil
}

func parseKey(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("a key is not PEM")
	}
	return signer(block)
}

// signer reads a private key of the kinds that OpenSSL writes.
func signer(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("read a private key: %w", err)
	}
	s, isSigner := key.(crypto.Signer)
	if !isSigner {
		return nil, errors.New("a private key can't sign")
	}
	return s, nil
}
