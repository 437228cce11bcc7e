package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/keyfile"
	"github.com/chiba-mesh/chiba/trust"
	"github.com/chiba-mesh/chiba/trust/vouch"
)

const (
	origin     = "chiba.audit/v1"
	keyContext = "chiba-audit-key-v1"
	maxProof   = 64 // hashes: enough for 2^62 records
	maxNote    = 4 << 10
	notOurs    = "the audit log of the coordinators is not a continuation of the one that was seen here"
)

// Tree is a log of Size records, as its root hash pins it down.
type Tree struct {
	Size int64
	Hash tlog.Hash
}

// text is the tree as it is signed.
func (t Tree) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", origin, t.Size, base64.StdEncoding.EncodeToString(t.Hash[:]))
}

// parseTree reads what text writes, and nothing else.
func parseTree(text string) (Tree, error) {
	lines := strings.Split(text, "\n")
	bad := fault.New(fault.Garbage, "read checkpoint", "it is not in the form of one")
	if len(lines) != 4 {
		return Tree{}, bad
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return Tree{}, bad
	}
	hash, err := tlog.ParseHash(lines[2])
	if err != nil {
		return Tree{}, bad
	}
	t := Tree{Size: size, Hash: hash}
	if t.text() != text {
		return Tree{}, bad
	}
	return t, nil
}

// Notary signs checkpoints with a key of its own, for which a coordinator's
// certificate vouches. It is safe for concurrent use.
type Notary struct {
	signer note.Signer
	proof  []byte
}

// OpenNotary reads the key in the file path, and makes it on first use (0600).
func OpenNotary(path string, identity tls.Certificate) (*Notary, error) {
	const op = "open the audit key"
	text, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeKey(path)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	private, public, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, fault.New(fault.BadInput, op, path+" holds none").WithHint("move it away, and a new one is made")
	}
	proof, err := vouch.For(keyContext, []byte(public), identity)
	return &Notary{signer: signer, proof: proof}, err
}

func makeKey(path string) ([]byte, error) {
	private, public, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return nil, err
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	text := []byte(private + "\n" + public + "\n")
	return text, trust.WriteFile(path, 0o600, text)
}

// Sign signs a tree; proof says whose signature it is.
func (n *Notary) Sign(t Tree) (checkpoint, proof []byte, err error) {
	checkpoint, err = note.Sign(&note.Note{Text: t.text()}, n.signer)
	return checkpoint, n.proof, fault.Wrap(fault.Internal, "sign checkpoint", err)
}

// Verify is the tree that a checkpoint is for, and the coordinator of our own site who
// has signed it: each site has a log of its own.
func Verify(checkpoint, proof []byte, own trust.Credentials, now time.Time) (Tree, trust.Identity, error) {
	const op = "verify checkpoint"
	us, err := own.Identity()
	if err != nil {
		return Tree{}, trust.Identity{}, err
	}
	public, by, err := vouch.Check(keyContext, proof, own.Roots, now)
	if err != nil {
		return Tree{}, by, fault.Wrap(fault.Untrusted, op, err)
	}
	if by.Role != trust.Coordinator || by.Site != us.Site {
		return Tree{}, by, fault.New(fault.Untrusted, op, by.String()+" of site "+by.Site+" signs none of site "+us.Site)
	}
	verifier, err := note.NewVerifier(string(bytes.TrimSpace(public)))
	if err != nil || len(checkpoint) > maxNote {
		return Tree{}, by, fault.New(fault.Untrusted, op, "its key is none")
	}
	n, err := note.Open(checkpoint, note.VerifierList(verifier))
	if err != nil {
		return Tree{}, by, fault.New(fault.Untrusted, op, "its signature is wrong")
	}
	t, err := parseTree(n.Text)
	return t, by, err
}

// Follows verifies by a proof that next goes on from t.
func (t Tree) Follows(next Tree, proof [][]byte) error {
	const op = "compare audit logs"
	if next.Size < t.Size {
		return fault.New(fault.Conflict, op, notOurs+": records are missing")
	}
	if t.Size == 0 {
		return nil
	}
	if len(proof) > maxProof {
		return fault.New(fault.TooLarge, op, "the proof is too long")
	}
	hashes := make(tlog.TreeProof, len(proof))
	for i, h := range proof {
		if len(h) != tlog.HashSize {
			return fault.New(fault.Garbage, op, "the proof is damaged")
		}
		copy(hashes[i][:], h)
	}
	if tlog.CheckTree(hashes, next.Size, next.Hash, t.Size, t.Hash) != nil {
		return fault.New(fault.Conflict, op, notOurs)
	}
	return nil
}

// Kept is a tree as a file or a table keeps it; ParseKept reads it.
func (t Tree) Kept() []byte { return []byte(t.text()) }

// ParseKept reads what Kept wrote; nothing is the empty tree.
func ParseKept(text []byte) (Tree, error) {
	if len(text) == 0 {
		return Tree{}, nil
	}
	return parseTree(string(text))
}

// Check verifies records against the tree that was signed for them, and against one
// that was seen before.
func Check(records [][]byte, signed, seen Tree) error {
	const op = "verify the audit log"
	bad := func(format string, args ...any) error {
		return fault.New(fault.Conflict, op, fmt.Sprintf(format, args...)).
			WithHint("history was changed: keep what was seen here (audit.seen), and compare with what agents have refused: chiba audit log")
	}
	var log Log
	for _, leaf := range records {
		if err := log.Add(leaf); err != nil {
			return err
		}
	}
	switch head, err := log.Head(signed.Size); {
	case err != nil:
		return bad("%d records are signed, and there are %d", signed.Size, log.Size())
	case head != signed:
		return bad("the records are not those that were signed")
	}
	if seen.Size > signed.Size {
		return bad("%d records were seen here before, and %d are left", seen.Size, signed.Size)
	}
	if head, err := log.Head(seen.Size); err != nil || seen.Size > 0 && head != seen {
		return bad("the first %d records are not those that were seen here before", seen.Size)
	}
	return nil
}
