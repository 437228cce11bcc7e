package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// identity is the client certificate an exchange was made with. The recording
// says it by its name alone.
type identity struct {
	cn        string
	issuer    string // common name of its CA; "" is the group's usual one
	upn       string
	key       crypto.PublicKey // an example of its kind; nil: EC P-256
	usages    []x509.ExtKeyUsage
	noUsages  bool // neither key usage nor extended ones
	withChain bool // the intermediate is sent too
}

// usual is the CA that a group's client certificates come from.
var usual = map[string]string{
	"G_mtls": "Test Root CA", "G_strict": "Test Root CA", "G_trust2": "Acme Root", "K_persist": "Acme Root",
}

const rogue = "Rogue CA" // in no truststore

// identityOf finds the certificate by words in the name of the exchange.
func identityOf(rec recording) (identity, bool) {
	if usual[rec.group] == "" || rec.Request.Headers["X-Auth-Token"] != "" && !strings.Contains(rec.name, "_mtls_root_") {
		return identity{}, false
	}
	_, what, _ := strings.Cut(rec.name[len(rec.group)+1:], "_")
	for _, known := range identities {
		if strings.Contains(what, known.words) {
			return known.identity, true
		}
	}
	return identity{}, false
}

// identities are tried in this order.
var identities = []struct {
	words string
	identity
}{
	{"no_cert_GET", identity{}}, // handled below: an empty name is no certificate
	{"no_client_cert", identity{}},
	{"no_cert_login", identity{}},
	{"root_doc_without_cert", identity{}},
	{"UPN_mode_CN_root", identity{cn: "root"}},
	{"CN_root", identity{cn: "root"}},
	{"CN_mtlsro", identity{cn: "mtlsro"}},
	{"CN_unknown_user", identity{cn: "stranger"}},
	{"no_EKU", identity{cn: "root", usages: []x509.ExtKeyUsage{}}},
	{"serverAuth_EKU", identity{cn: "root", usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}},
	{"no_KU", identity{cn: "root", noUsages: true}},
	{"both_EKU", identity{cn: "root", usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}},
	{"untrusted_CA", identity{cn: "root", issuer: rogue}},
	{"rogue_cert", identity{cn: "root", issuer: rogue}},
	{"UPN", identity{cn: "someone", upn: "root@testhost"}},
	{"mtls_root", identity{cn: "root"}},
	{"mtls_readonly", identity{cn: "mtlsro"}},
	{"CN_mode_again", identity{cn: "root"}},
	{"with_cert", identity{cn: "root"}},
	{"with_client_cert", identity{cn: "root"}},
	{"good_cert", identity{cn: "root"}},
	{"strict_off_again", identity{cn: "root"}},
	{"TLS_auth_off_while_strict", identity{cn: "root"}},
	{"TLS_auth_on_again", identity{cn: "root"}},
	{"leaf_intermediate_sent", identity{cn: "root", issuer: "Acme Issuing", withChain: true}},
	{"leaf_int_only", identity{cn: "root", issuer: "Acme Issuing", withChain: true}},
	{"leaf_only", identity{cn: "root", issuer: "Acme Issuing"}},
	{"issued_by_root", identity{cn: "root"}},
	{"old_root_issued", identity{cn: "root"}},
	{"RSA_client", identity{cn: "root", key: &rsa.PublicKey{}}},
	{"P_384_client", identity{cn: "root", key: &ecdsa.PublicKey{Curve: elliptic.P384()}}},
	{"Ed25519_client_key_P_256", identity{cn: "root", key: ed25519.PublicKey{}}},
	{"P_256_client_Ed25519_CA", identity{cn: "root", issuer: "Acme Ed25519 Root"}},
	{"Ed25519_client_Ed25519_CA", identity{cn: "root", issuer: "Acme Ed25519 Root", key: ed25519.PublicKey{}}},
	{"cert_of_new_CA", identity{cn: "root", issuer: "Acme Root 2"}},
	{"new_CA_cert", identity{cn: "root", issuer: "Acme Root 2"}},
	{"cert_of_old_CA", identity{cn: "root"}},
	{"old_CA_cert", identity{cn: "root"}},
}

// clientCertificate is the certificate to show, nil for none.
func (r *replayer) clientCertificate(rec recording) (*tls.Certificate, error) {
	id, found := identityOf(rec)
	if !found || id.cn == "" {
		return nil, nil
	}
	if id.issuer == "" {
		id.issuer = usual[rec.group]
	}
	return r.twins.wear(id)
}

// wear issues a client certificate.
func (t *twins) wear(id identity) (*tls.Certificate, error) {
	key, err := clientKey(id.key)
	if err != nil {
		return nil, err
	}
	ca, err := t.named(id.issuer)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: id.cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if id.usages != nil {
		template.ExtKeyUsage = id.usages
	}
	if id.noUsages {
		template.KeyUsage, template.ExtKeyUsage = 0, nil
	}
	if id.upn != "" {
		extension, bad := principalName(id.upn)
		if bad != nil {
			return nil, bad
		}
		template.ExtraExtensions = []pkix.Extension{extension}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue a client certificate for %s: %w", id.cn, err)
	}
	chain := [][]byte{der}
	if id.withChain {
		if chain, err = t.intermediate(chain, ca); err != nil {
			return nil, err
		}
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
}

func clientKey(like crypto.PublicKey) (crypto.Signer, error) {
	if _, isRSA := like.(*rsa.PublicKey); isRSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return newKey(like)
}

// named is the twin of the CA with this common name. One that was not seen in
// the recording is made up; the intermediate comes from the usual root.
func (t *twins) named(cn string) (*issuer, error) {
	for _, ca := range t.issuers {
		if ca.cert != nil && (ca.cert.Subject.CommonName == cn || strings.HasSuffix(string(ca.cert.RawSubject), cn)) {
			return ca, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := &issuer{key: key, cert: &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"Acme"}, CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}}
	t.issuers[cn] = ca
	return ca, nil
}

// selfSigned is the CA's certificate as PEM.
func (i *issuer) selfSigned() (string, error) {
	der, err := x509.CreateCertificate(rand.Reader, i.cert, i.cert, i.key.Public(), i.key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), err
}

// intermediate adds the CA's own certificate, signed by the root.
func (t *twins) intermediate(chain [][]byte, ca *issuer) ([][]byte, error) {
	root, err := t.named("Acme Root")
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, ca.cert, root.cert, ca.key.Public(), root.key)
	return append(chain, der), err
}

// principalName is a subject alternative name of the kind otherName with a
// user principal name, as directory services make them.
func principalName(upn string) (pkix.Extension, error) {
	value, err := asn1.MarshalWithParams(upn, "utf8")
	if err != nil {
		return pkix.Extension{}, err
	}
	oid, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3})
	if err != nil {
		return pkix.Extension{}, err
	}
	explicit, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: value})
	if err != nil {
		return pkix.Extension{}, err
	}
	name, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: append(oid, explicit...)})
	if err != nil {
		return pkix.Extension{}, err
	}
	all, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: name})
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: all}, err
}
