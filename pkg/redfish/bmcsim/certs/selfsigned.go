// Package certs is the certificate side of a BMC as OpenBMC's certificate
// manager has it: the self-signed start certificate, signing requests with
// their oddities, installing what comes back, and the truststore that client
// certificates are checked against. It reads and makes X.509 and holds no
// state of its own: keys and entries live in the values its caller keeps.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"time"
)

// SelfSigned makes the certificate OpenBMC makes at its first start: EC P-384,
// itself a CA, ten years, named after the host. It returns certificate and key
// as PEM.
func SelfSigned(hostname string, now time.Time, random io.Reader) (cert, key []byte, err error) {
	priv, err := ecdsa.GenerateKey(elliptic.P384(), random)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	serial := make([]byte, 8)
	if _, err = io.ReadFull(random, serial); err != nil {
		return nil, nil, fmt.Errorf("make a serial number: %w", err)
	}
	serial[0] &= 0x7f
	name := pkix.Name{Country: []string{"US"}, Organization: []string{"OpenBMC"}, CommonName: hostname}
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               name,
		DNSNames:              []string{hostname},
		NotBefore:             now.UTC().Truncate(time.Second),
		NotAfter:              now.UTC().Truncate(time.Second).AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
		ExtraExtensions:       []pkix.Extension{netscapeComment()},
	}
	der, err := x509.CreateCertificate(random, template, template, &priv.PublicKey, priv)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	return pemText("CERTIFICATE", der), pemText("PRIVATE KEY", pkcs8), nil
}

func pemText(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Own reports whether a certificate is one that SelfSigned made: only such a
// one is replaced when the host's name changes.
func Own(cert *x509.Certificate) bool {
	for _, e := range cert.Extensions {
		if e.Id.Equal(netscapeComment().Id) {
			return cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
		}
	}
	return false
}

// netscapeComment is the comment that OpenBMC writes into its certificate.
func netscapeComment() pkix.Extension {
	const text = "Generated from OpenBMC service"
	return pkix.Extension{
		Id:    asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 1, 13},
		Value: append([]byte{asn1.TagIA5String, byte(len(text))}, text...),
	}
}

// Pin is the pin of a certificate: "sha256/" and the base64 SHA-256 of its
// public key (SubjectPublicKeyInfo).
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}
