// Package keyfile reads files that hold a private key or another secret, and refuses
// one that others can read: whoever has read it is us.
package keyfile

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// maxSize is more than any key, or any list of them, has.
const maxSize = 1 << 20

// Read reads the secret in the file path. A file that is not there is an
// fs.ErrNotExist; one that others can read is of kind fault.Denied. The rule is that
// of PostgreSQL for its server.key: nobody but the owner, or, if that is root, a group
// that may read it: so do service managers and orchestrators hand out secrets.
func Read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	info, err := file.Stat()            // of what was opened, and not of what the path says by then
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fault.New(fault.BadInput, "read "+path, "it is no file")
	}
	if mode := info.Mode().Perm(); mode&^allowed(info) != 0 {
		return nil, fault.New(fault.Denied, "read "+path, fmt.Sprintf("others can read or change it (mode %04o), and it holds a secret", mode)).
			WithHint("chmod 600 " + path + "; if others may have read it, make a new one")
	}
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err == nil && len(data) > maxSize {
		return nil, fault.New(fault.TooLarge, "read "+path, "it is too large to be a secret")
	}
	return data, err
}

// Pair reads a certificate with its chain and its private key, in PEM form, with Read's
// rule for the key.
func Pair(cert, key string) (tls.Certificate, error) {
	chain, err := os.ReadFile(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := Read(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(chain, private)
}

// allowed are the bits that the mode may have.
func allowed(info os.FileInfo) os.FileMode {
	if owner, known := info.Sys().(*syscall.Stat_t); known && owner.Uid == 0 {
		return 0o740
	}
	return 0o700
}
