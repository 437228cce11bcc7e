package trust

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/keyfile"
)

// The files in which a process finds its credentials, in a directory of its own.
const (
	CertFile = "cert.pem" // our chain, leaf first
	KeyFile  = "key.pem"  // our private key, mode 0600
	CAFile   = "ca.pem"   // the roots we believe
)

// WriteFile replaces a file in one step, and returns when it would outlive a power
// failure: what is sealed to a key, or signed by it, must not outlive the key.
func WriteFile(path string, mode fs.FileMode, data []byte) error {
	fresh := path + ".new"
	_ = os.Remove(fresh) // what a crash has left, of whatever mode
	file, err := os.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err = os.Rename(fresh, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// WriteKey writes a private key as PKCS #8 in PEM form, readable for its owner alone.
func WriteKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return WriteFile(path, 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// ReadKey reads what WriteKey writes, unless others can read it, too. A file that is
// not there is an fs.ErrNotExist.
func ReadKey(path string) (crypto.Signer, error) {
	text, err := keyfile.Read(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New(path + " is not in PEM form")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New(path + " holds no signing key")
	}
	return key, nil
}

// Load reads the credentials in dir.
func Load(dir string) (Credentials, error) {
	return LoadFiles(filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile), filepath.Join(dir, CAFile))
}

// LoadFiles reads credentials from three PEM files.
func LoadFiles(cert, key, roots string) (Credentials, error) {
	const op = "load credentials"
	pair, err := keyfile.Pair(cert, key)
	if err != nil {
		return Credentials{}, fault.Wrap(fault.BadInput, op, err)
	}
	text, err := os.ReadFile(roots)
	if err != nil {
		return Credentials{}, fault.Wrap(fault.BadInput, op, err)
	}
	anchors, err := DecodePEM(text)
	if err != nil {
		return Credentials{}, fault.Wrap(fault.BadInput, op+": "+roots, err)
	}
	return NewCredentials(pair, SelfSigned(anchors)), nil
}

// SaveRenewed writes a renewed chain and what is believed of the roots, beside a
// key that stays. A crash between the two files leaves credentials that load: the
// roots of both are good for either certificate.
func SaveRenewed(dir string, chain, bundle []*x509.Certificate) error {
	return SaveRenewedFiles(filepath.Join(dir, CertFile), filepath.Join(dir, CAFile), chain, bundle)
}

// SaveRenewedFiles is SaveRenewed for two files of any name.
func SaveRenewedFiles(cert, roots string, chain, bundle []*x509.Certificate) error {
	if err := WriteFile(roots, 0o644, EncodePEM(bundle)); err != nil {
		return err
	}
	return WriteFile(cert, 0o644, EncodePEM(chain))
}
