// Package blob keeps large files by what is in them: a file is called by the SHA-256
// of its content, is written once, and is the same wherever it comes from. Agents and
// coordinators have a Store each; Pull gets a blob from one into another, chunk by
// chunk over several connections, and Serve answers it.
//
// A blob is in a Store when the whole of it has been seen to have its digest. What is
// on its way lies beside it, as chunks each of which has been compared with a list of
// their hashes; so a pull that was cut goes on where it was, and what a liar serves is
// never written.
package blob

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// ChunkSize is what is asked for, compared and written at a time.
	ChunkSize = 1 << 20
	// MaxSize is the largest blob; no firmware comes near it.
	MaxSize = 8 << 30

	prefix   = "sha256-"
	partEnd  = ".part"
	infoEnd  = ".info"
	newStart = "new-"
)

// Digest is "sha256:" and 64 lower-case hex digits.
type Digest string

// ParseDigest checks the form of a digest.
func ParseDigest(s string) (Digest, error) {
	digits, ok := strings.CutPrefix(s, "sha256:")
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil || len(raw) != sha256.Size || strings.ToLower(digits) != digits {
		return "", fault.New(fault.BadInput, "read a digest", fmt.Sprintf("%q is not sha256: and 64 lower-case hex digits", s))
	}
	return Digest(s), nil
}

func digestOf(h hash.Hash) Digest { return Digest("sha256:" + hex.EncodeToString(h.Sum(nil))) }

func (d Digest) file() string { return prefix + strings.TrimPrefix(string(d), "sha256:") }

// Store is a directory of blobs. It is safe for concurrent use by one process.
type Store struct {
	root  *os.Root
	quota int64

	mu    sync.Mutex
	parts map[Digest]bool // that somebody writes
}

// Open is the store in dir, which is made if it is not there. Of what Pull brings,
// the blobs that were used longest ago go when there are more than quota bytes; 0
// keeps all.
func Open(dir string, quota int64) (*Store, error) {
	const op = "open the artifacts"
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	root, err := os.OpenRoot(dir) // a link out of it leads nowhere
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	s := &Store{root: root, quota: quota, parts: make(map[Digest]bool)}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, errors.Join(fault.Wrap(fault.Unavailable, op, err), root.Close())
	}
	for _, e := range entries { // of a process that was killed while it took a file
		if strings.HasPrefix(e.Name(), newStart) {
			_ = root.Remove(e.Name())
		}
	}
	return s, nil
}

// Close closes the directory; files that are open stay so.
func (s *Store) Close() error { return s.root.Close() }

// Size is that of a blob, if it is here.
func (s *Store) Size(d Digest) (size int64, has bool) {
	info, err := s.root.Stat(d.file())
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// Use opens a blob and notes that it was used.
func (s *Store) Use(d Digest) (*os.File, error) {
	f, err := s.root.Open(d.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "open an artifact", fmt.Sprintf("%s is not here", d))
	}
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "open an artifact", err)
	}
	now := time.Now()
	_ = s.root.Chtimes(d.file(), now, now) // only what goes first depends on it
	return f, nil
}

// Blob is one in a Store.
type Blob struct {
	Digest Digest
	Size   int64
	Used   time.Time // last
}

// List is what is here, the longest unused first.
func (s *Store) List() ([]Blob, error) {
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "list the artifacts", err)
	}
	var all []Blob
	for _, e := range entries {
		d, err := ParseDigest("sha256:" + strings.TrimPrefix(e.Name(), prefix))
		info, statErr := e.Info()
		if err != nil || statErr != nil || !info.Mode().IsRegular() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		all = append(all, Blob{Digest: d, Size: info.Size(), Used: info.ModTime()})
	}
	slices.SortFunc(all, func(a, b Blob) int { return a.Used.Compare(b.Used) })
	return all, nil
}

// Remove removes a blob. Who has it open goes on reading it.
func (s *Store) Remove(d Digest) error {
	_ = s.root.Remove(d.file() + infoEnd)
	err := s.root.Remove(d.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fault.Wrap(fault.Unavailable, "remove an artifact", err)
}

// Put keeps what r has if it has the digest, and the size, that is said. When it
// returns nil the blob is durable.
func (s *Store) Put(r io.Reader, want Digest, size int64) error {
	op := "keep the artifact " + string(want)
	if size <= 0 || size > MaxSize {
		return fault.New(fault.TooLarge, op, fmt.Sprintf("it has %d bytes; it takes 1 to %d", size, int64(MaxSize)))
	}
	got, n, err := s.write(r, want, size)
	if err == nil && (got != want || n != size) {
		err = fault.New(fault.BadInput, "", fmt.Sprintf("%d bytes with the digest %s came", n, got))
	}
	return fault.Wrap(fault.KindOf(err), op, err)
}

// Take is Put of at most most bytes, of a size that nobody has said, within the
// quota. It tells the digest of what came: if it is not the one that is wanted nothing
// is kept.
func (s *Store) Take(r io.Reader, want Digest, most int64) (got Digest, err error) {
	const op = "keep an artifact"
	got, n, err := s.write(r, want, most)
	if err == nil && n > most {
		err = fault.New(fault.TooLarge, op, fmt.Sprintf("it has more than %d GiB", most>>30))
		got = ""
	}
	if err == nil && got == want {
		err = s.room(0, want)
	}
	return got, err
}

// write writes what r has to a file, and keeps that if it has the digest and at most
// most bytes.
func (s *Store) write(r io.Reader, want Digest, most int64) (got Digest, n int64, err error) {
	name := fmt.Sprintf("%s%d", newStart, time.Now().UnixNano())
	f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return "", 0, fault.Wrap(fault.Unavailable, "", err)
	}
	sum := sha256.New()
	n, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, most+1))
	got = digestOf(sum)
	keep := err == nil && got == want && n <= most
	if keep {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil && keep {
		err = s.settle(name, want)
	}
	if err != nil || !keep {
		_ = s.root.Remove(name)
	}
	return got, n, fault.Wrap(fault.Unavailable, "", err)
}

// settle gives a whole, synced file its name, durably.
func (s *Store) settle(name string, d Digest) error {
	if err := s.root.Rename(name, d.file()); err != nil {
		return err
	}
	dir, err := s.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Info is what a blob consists of. It is computed when it is first asked for.
func (s *Store) Info(d Digest) (*pb.ArtifactInfo, error) {
	const op = "read an artifact"
	if info := s.readInfo(d); info != nil {
		return info, nil
	}
	f, err := s.Use(d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info := &pb.ArtifactInfo{Digest: string(d)}
	buf := make([]byte, ChunkSize)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			sum := sha256.Sum256(buf[:n])
			info.Size, info.Chunks = info.GetSize()+int64(n), append(info.GetChunks(), sum[:]...)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return info, s.writeInfo(d, info)
		}
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, op, err)
		}
	}
}

func (s *Store) readInfo(d Digest) *pb.ArtifactInfo {
	raw, err := fs.ReadFile(s.root.FS(), d.file()+infoEnd)
	info := &pb.ArtifactInfo{}
	if err != nil || proto.Unmarshal(raw, info) != nil || checkInfo(d, info) != nil {
		return nil
	}
	return info
}

func (s *Store) writeInfo(d Digest, info *pb.ArtifactInfo) error {
	raw, err := proto.Marshal(info)
	if err != nil {
		return fault.Wrap(fault.Internal, "keep what an artifact consists of", err)
	}
	f, err := s.root.Create(d.file() + infoEnd)
	if err == nil {
		_, err = f.Write(raw)
		err = errors.Join(err, f.Close())
	}
	return fault.Wrap(fault.Unavailable, "keep what an artifact consists of", err)
}

// checkInfo says whether a list can be one of the blob's.
func checkInfo(d Digest, info *pb.ArtifactInfo) error {
	chunks := (info.GetSize() + ChunkSize - 1) / ChunkSize
	if info.GetDigest() != string(d) || info.GetSize() <= 0 || info.GetSize() > MaxSize || int64(len(info.GetChunks())) != chunks*sha256.Size {
		return fault.New(fault.Untrusted, "read what an artifact consists of", "the list makes no sense")
	}
	return nil
}

// chunk is the place of a chunk in its blob and the hash it must have.
func chunk(info *pb.ArtifactInfo, i int64) (from, size int64, sum []byte) {
	from = i * ChunkSize
	return from, min(ChunkSize, info.GetSize()-from), info.GetChunks()[i*sha256.Size : (i+1)*sha256.Size]
}

// part is a blob on its way, written by one Pull at a time.
type part struct {
	store *Store
	d     Digest
	info  *pb.ArtifactInfo
	file  *os.File

	mu      sync.Mutex
	missing map[int64]bool
}

// begin goes on with a part, or begins it. Whatever is there already is compared with
// the list: a file that a crash left half written is fetched again where it is wrong.
func (s *Store) begin(d Digest, info *pb.ArtifactInfo) (*part, error) {
	const op = "begin to fetch an artifact"
	f, err := s.root.OpenFile(d.file()+partEnd, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, op, err)
	}
	p := &part{store: s, d: d, info: info, file: f, missing: make(map[int64]bool)}
	buf := make([]byte, ChunkSize)
	for i := range int64(len(info.GetChunks()) / sha256.Size) {
		from, size, want := chunk(info, i)
		n, err := f.ReadAt(buf[:size], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, errors.Join(fault.Wrap(fault.Unavailable, op, err), f.Close())
		}
		if sum := sha256.Sum256(buf[:n]); int64(n) != size || !bytes.Equal(sum[:], want) {
			p.missing[i] = true
		}
	}
	return p, nil
}

// take writes a chunk that is what the list says.
func (p *part) take(i int64, data []byte) error {
	from, size, want := chunk(p.info, i)
	if sum := sha256.Sum256(data); int64(len(data)) != size || !bytes.Equal(sum[:], want) {
		return fault.New(fault.Untrusted, "fetch an artifact", fmt.Sprintf("chunk %d is not what it must be", i))
	}
	if _, err := p.file.WriteAt(data, from); err != nil {
		return fault.Wrap(fault.Unavailable, "fetch an artifact", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.missing, i)
	return nil
}

// left are the chunks that are missing, in order.
func (p *part) left() []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]int64, 0, len(p.missing))
	for i := range p.missing {
		all = append(all, i)
	}
	slices.Sort(all)
	return all
}

// lacks is how many chunks are missing.
func (p *part) lacks() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(len(p.missing))
}

// finish makes the part the blob, if the whole has its digest. If it has not, the list
// was a lie, and all of it goes.
func (p *part) finish() error {
	const op = "fetch an artifact"
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(p.file, 0, p.info.GetSize())); err != nil {
		return fault.Wrap(fault.Unavailable, op, err)
	}
	if got := digestOf(sum); got != p.d {
		p.store.discard(p.d)
		return fault.New(fault.Untrusted, op, fmt.Sprintf("what came has the digest %s", got))
	}
	err := errors.Join(p.file.Truncate(p.info.GetSize()), p.file.Sync())
	if err == nil {
		err = p.store.settle(p.d.file()+partEnd, p.d)
	}
	return fault.Wrap(fault.Unavailable, op, err)
}

// discard removes what has come of a blob.
func (s *Store) discard(d Digest) {
	_ = s.root.Remove(d.file() + partEnd)
	_ = s.root.Remove(d.file() + infoEnd)
}

// room removes what was used longest ago, so that size more bytes fit into the quota.
func (s *Store) room(size int64, keep Digest) error {
	if s.quota <= 0 {
		return nil
	}
	if size > s.quota {
		return fault.New(fault.TooLarge, "make room for an artifact", fmt.Sprintf("it has %d bytes, and the quota is %d", size, s.quota)).
			WithHint("raise artifacts_quota in the agent's configuration")
	}
	all, err := s.List()
	if err != nil {
		return err
	}
	have := int64(0)
	for _, b := range all {
		have += b.Size
	}
	for _, b := range all {
		if have+size <= s.quota {
			break
		}
		if b.Digest == keep {
			continue
		}
		if err := s.Remove(b.Digest); err != nil {
			return err
		}
		have -= b.Size
	}
	return nil
}
