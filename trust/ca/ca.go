// Package ca is the certificate authority of a mesh: one self-signed ECDSA P-256
// root in a directory, which issues the leaves of coordinators, agents and
// operators.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/trust"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	// backdate lets a machine whose clock is behind believe a fresh
	// certificate.
	backdate = 24 * time.Hour
)

// Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// Open reads the authority in dir, and makes it on first use. The directory is
// readable for its owner alone.
func Open(dir string) (*Authority, error) {
	certPath, keyPath := filepath.Join(dir, trust.CAFile), filepath.Join(dir, "ca-key.pem")
	key, err := readKey(keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return create(dir, certPath, keyPath)
	}
	if err != nil {
		return nil, damaged(err)
	}
	cert, err := readCert(certPath)
	if err != nil {
		return nil, damaged(err)
	}
	return &Authority{cert: cert, key: key, now: time.Now}, nil
}

func damaged(err error) error {
	return fault.New(fault.BadInput, "open authority", err.Error()).
		WithHint("restore the file; a new authority would need new certificates for everybody")
}

// create writes the certificate first and the key last: the key's presence is
// what says that the authority is complete.
func create(dir, certPath, keyPath string) (*Authority, error) {
	const op = "make authority"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Chiba root"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// Only identities of the mesh can be issued, whatever a leaf asks for.
		PermittedURIDomains:         []string{trust.Domain},
		PermittedDNSDomainsCritical: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	if err = trust.WriteFile(certPath, 0o644, block("CERTIFICATE", der)); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	if err = writeKey(keyPath, key); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, op, err)
	}
	return &Authority{cert: cert, key: key, now: time.Now}, nil
}

// Ensure puts credentials for id into dir, in the files that trust.Load reads,
// unless there are some that this authority issued, for id, with more than a
// third of their life left. Coordinators also get the host names and addresses in hosts.
func (a *Authority) Ensure(dir string, id trust.Identity, hosts ...string) error {
	if a.good(dir, id) {
		return nil
	}
	op := "issue certificate for " + id.String()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fault.Wrap(fault.Internal, op, err)
	}
	der, err := a.Issue(id, key.Public(), hosts...)
	if err != nil {
		return err
	}
	root := block("CERTIFICATE", a.cert.Raw)
	return fault.Wrap(fault.Unavailable, op, errors.Join(
		writeKey(filepath.Join(dir, trust.KeyFile), key),
		trust.WriteFile(filepath.Join(dir, trust.CertFile), 0o644, block("CERTIFICATE", der)),
		trust.WriteFile(filepath.Join(dir, trust.CAFile), 0o644, root),
	))
}

func (a *Authority) good(dir string, id trust.Identity) bool {
	creds, err := trust.Load(dir)
	if err != nil {
		return false
	}
	leaf := creds.Certificate.Leaf
	have, err := trust.IdentityOf(leaf)
	return err == nil && have == id && leaf.CheckSignatureFrom(a.cert) == nil &&
		a.now().Before(leaf.NotAfter.Add(-leafLife/3))
}

// Issue signs a leaf for id and its public key and returns its DER form. The
// subject and all names are ours; nothing is taken from a request.
func (a *Authority) Issue(id trust.Identity, public crypto.PublicKey, hosts ...string) ([]byte, error) {
	op := "issue certificate for " + id.String()
	if !trust.ValidName(id.Name) {
		return nil, fault.New(fault.BadInput, op, "a name is 1 to 63 letters, digits, '-', '_' or '.'")
	}
	now := a.now()
	leaf := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: id.Name, OrganizationalUnit: []string{string(id.Role)}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{id.URI()},
	}
	if id.Role == trust.Coordinator {
		leaf.ExtKeyUsage = append(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		addHosts(leaf, hosts)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, public, a.key)
	return der, fault.Wrap(fault.Internal, op, err)
}

func addHosts(leaf *x509.Certificate, hosts []string) {
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
}

func serial() *big.Int {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand ends the process instead
	raw[0] &= 0x7f           // RFC 5280 4.1.2.2: positive, at most 20 octets
	return new(big.Int).SetBytes(raw[:])
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return trust.WriteFile(path, 0o600, block("PRIVATE KEY", der))
}

func readKey(path string) (crypto.Signer, error) {
	der, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New(path + " holds no signing key")
	}
	return key, nil
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func readPEM(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	decoded, _ := pem.Decode(data)
	if decoded == nil {
		return nil, errors.New(path + " is not in PEM form")
	}
	return decoded.Bytes, nil
}
