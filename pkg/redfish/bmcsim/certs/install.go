package certs

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Pair is a certificate with what it is sent with, and its key, as PEM.
type Pair struct {
	Chain string // the leaf first
	Key   string
}

// Install reads PEM that a client sent: certificates and perhaps their key, in
// any order; the first certificate is the leaf. Without a key the leaf must be
// for a signing request. Nothing else is checked, as on OpenBMC: an expired
// certificate, or one for clients alone, is installed and served.
func Install(text string, keys Keys) (Pair, error) {
	var p Pair
	var leaf *x509.Certificate
	var own []crypto.Signer
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case block.Type == "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return Pair{}, fmt.Errorf("read a certificate: %w", err)
			}
			if leaf == nil {
				leaf = cert
			}
			p.Chain += string(pem.EncodeToMemory(block))
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			key, err := signer(block)
			if err != nil {
				return Pair{}, err
			}
			own = append(own, key)
		}
	}
	if leaf == nil {
		return Pair{}, errors.New("there is no certificate")
	}
	if own == nil {
		own = keys.all()
	}
	for _, key := range own {
		if matches(leaf, key) {
			var err error
			p.Key, err = keyText(key)
			return p, err
		}
	}
	return Pair{}, errors.New("the certificate is for a key the BMC does not have")
}

func (k Keys) all() (list []crypto.Signer) {
	for _, text := range []string{k.EC, k.RSA} {
		if key, err := parseKey(text); err == nil {
			list = append(list, key)
		}
	}
	return list
}

func matches(cert *x509.Certificate, key crypto.Signer) bool {
	public, comparable := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return comparable && public.Equal(cert.PublicKey)
}

// Served is the pair as TLS needs it. A CA of the truststore that issued the
// last certificate of the chain is sent too.
func (p Pair) Served(s Store) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair([]byte(p.Chain), []byte(p.Key))
	if err != nil {
		return nil, fmt.Errorf("read the served certificate: %w", err)
	}
	last, err := x509.ParseCertificate(pair.Certificate[len(pair.Certificate)-1])
	if err != nil {
		return nil, fmt.Errorf("read the served chain: %w", err)
	}
	for _, ca := range s.certificates() {
		if last.CheckSignatureFrom(ca) == nil && !last.Equal(ca) {
			pair.Certificate = append(pair.Certificate, ca.Raw)
			break
		}
	}
	return &pair, nil
}

// First is the first certificate of a PEM text, and its own text.
func First(text string) (*x509.Certificate, string, error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, "", errors.New("there is no certificate")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, "", fmt.Errorf("read a certificate: %w", err)
		}
		return cert, string(pem.EncodeToMemory(block)), nil
	}
}
