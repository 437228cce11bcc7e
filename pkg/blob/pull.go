package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/mesh"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const (
	// stripes is over how many connections a blob is pulled. On a lossy path QUIC's
	// congestion control gives one connection little, four give four times that.
	stripes = 4
	// pieceSize is what is sent at a time: each piece has a deadline, and a slow path
	// must be able to keep it.
	pieceSize    = 64 << 10
	pieceTimeout = 30 * time.Second
	// maxPiece is a piece, or the list of the largest blob.
	maxPiece = MaxSize/ChunkSize*sha256.Size + pieceSize
	// failures is how many connections in a row may fail one stripe.
	failures = 3
)

// Conn is a connection to who has a blob, for this pull alone.
type Conn interface {
	// Open opens a stream on which an ArtifactPull may be sent.
	Open(ctx context.Context) (mesh.Stream, *mesh.Channel, error)
	Close(reason string)
}

// Source is who has a blob.
type Source struct {
	Name    string // for logs and errors
	Connect func(ctx context.Context) (Conn, error)
	// Streams is over how many connections to pull, of usually so many; nil: the usual.
	Streams func(usual int) int
}

// Over is a Source's connection over a session of its own, whose streams begin with
// preamble.
func Over(session mesh.Session, preamble *pb.StreamOpen) Conn { return conn{session, preamble} }

type conn struct {
	mesh.Session
	preamble *pb.StreamOpen
}

func (c conn) Open(ctx context.Context) (mesh.Stream, *mesh.Channel, error) {
	stream, err := c.Session.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	ch := mesh.NewChannel(stream, maxPiece)
	return stream, ch, ch.Send(c.preamble)
}

// Pull gets a blob from a source. What has come stays when it ends early, and the
// next Pull, from whomever, goes on with it. An error of kind Untrusted means that the
// source has lied; one of kind NotFound that it has no such blob; Conflict that this
// blob is being pulled already. Told hears how many bytes are there, now and then; it
// may be nil and must not block.
func (s *Store) Pull(ctx context.Context, d Digest, from Source, told func(have, size int64)) error {
	op := fmt.Sprintf("fetch the artifact %s from %s", d, from.Name)
	if _, has := s.Size(d); has {
		return nil
	}
	if !s.claim(d) {
		return fault.New(fault.Conflict, op, "it is being fetched already")
	}
	defer s.release(d)
	info := s.readInfo(d)
	if info == nil {
		var err error
		if info, err = s.ask(ctx, d, from); err != nil {
			return fault.Wrap(fault.KindOf(err), op, err)
		}
	}
	if err := s.room(info.GetSize(), d); err != nil {
		return fault.Wrap(fault.KindOf(err), op, err)
	}
	p, err := s.begin(d, info)
	if err != nil {
		return fault.Wrap(fault.KindOf(err), op, err)
	}
	defer func() { _ = p.file.Close() }() // it was synced, or is compared again
	if err = p.pull(ctx, from, told); err == nil {
		err = p.finish()
	} else if fault.Is(err, fault.Untrusted) && len(p.left()) == len(info.GetChunks())/sha256.Size {
		s.discard(d) // nothing fits the list: perhaps it is the list that is wrong
	}
	return fault.Wrap(fault.KindOf(err), op, err)
}

func (s *Store) claim(d Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts[d] {
		return false
	}
	s.parts[d] = true
	return true
}

func (s *Store) release(d Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.parts, d)
}

// ask asks what a blob consists of, and keeps it beside the part.
func (s *Store) ask(ctx context.Context, d Digest, from Source) (*pb.ArtifactInfo, error) {
	c, err := from.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close("asked")
	var info *pb.ArtifactInfo
	err = call(ctx, c, &pb.ArtifactPull{Digest: string(d), Info: true}, func(p *pb.ArtifactPiece) error {
		info = p.GetInfo()
		return checkInfo(d, info)
	})
	if err != nil {
		return nil, err
	}
	return info, s.writeInfo(d, info)
}

// call sends one request and hands on the pieces of the answer.
func call(ctx context.Context, c Conn, q *pb.ArtifactPull, each func(*pb.ArtifactPiece) error) error {
	stream, ch, err := c.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	defer context.AfterFunc(ctx, func() { _ = stream.Close() })()
	if err := ch.Send(q); err != nil {
		return err
	}
	for {
		if err := ch.SetReceiveDeadline(time.Now().Add(pieceTimeout)); err != nil {
			return fault.Wrap(fault.Unavailable, "", err)
		}
		var p pb.ArtifactPiece
		if err := ch.Receive(&p); err != nil {
			return fault.Wrap(fault.Unavailable, "", errors.Join(ctx.Err(), err))
		}
		if p.GetKind() != "" {
			return wire.FromFault(p.GetKind(), p.GetError(), p.GetHint())
		}
		if err := each(&p); err != nil {
			return err
		}
		if p.GetLast() {
			return nil
		}
	}
}

// pull gets what is missing, over several connections that take the chunks in turn.
func (p *part) pull(ctx context.Context, from Source, told func(have, size int64)) error {
	left := p.left()
	todo := make(chan int64, len(left))
	for _, i := range left {
		todo <- i
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var pulling sync.WaitGroup
	width := stripes
	if from.Streams != nil {
		width = max(1, from.Streams(stripes))
	}
	errs := make([]error, min(width, len(left)))
	for n := range errs {
		pulling.Go(func() {
			if errs[n] = p.stripe(ctx, from, todo, told); fault.Is(errs[n], fault.Untrusted) {
				cancel(errs[n]) // nothing more is taken from a liar
			}
		})
	}
	pulling.Wait()
	if cause := context.Cause(ctx); fault.Is(cause, fault.Untrusted) {
		return cause
	}
	if len(p.left()) == 0 {
		return nil
	}
	return errors.Join(errs...)
}

// stripe gets chunks over one connection, and over another one if that fails.
func (p *part) stripe(ctx context.Context, from Source, todo chan int64, told func(have, size int64)) error {
	for failed := 0; ; {
		got, err := p.connection(ctx, from, todo, told)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if failed++; got {
			failed = 1
		}
		if failed == failures || !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Timeout) {
			return err
		}
	}
}

// connection gets chunks until there are none left or the connection fails.
func (p *part) connection(ctx context.Context, from Source, todo chan int64, told func(have, size int64)) (got bool, err error) {
	var c Conn
	defer func() {
		if c != nil {
			c.Close("done")
		}
	}()
	for {
		var i int64
		select {
		case i = <-todo:
		default:
			return got, nil
		}
		if c == nil {
			if c, err = from.Connect(ctx); err != nil {
				todo <- i
				return got, err
			}
		}
		if err = p.one(ctx, c, i); err != nil {
			todo <- i // it has room: i came out of it
			return got, err
		}
		got = true
		if told != nil {
			told(max(0, p.info.GetSize()-p.lacks()*ChunkSize), p.info.GetSize())
		}
	}
}

// one gets one chunk.
func (p *part) one(ctx context.Context, c Conn, i int64) error {
	_, size, _ := chunk(p.info, i)
	data := make([]byte, 0, size)
	err := call(ctx, c, &pb.ArtifactPull{Digest: string(p.d), Chunk: i}, func(piece *pb.ArtifactPiece) error {
		if int64(len(data)+len(piece.GetData())) > size {
			return fault.New(fault.Untrusted, "", fmt.Sprintf("chunk %d is larger than it must be", i))
		}
		data = append(data, piece.GetData()...)
		return nil
	})
	if err != nil {
		return err
	}
	return p.take(i, data)
}

// Serve answers one ArtifactPull on a stream whose preamble was read.
func (s *Store) Serve(ctx context.Context, ch *mesh.Channel) error {
	if err := ch.SetReceiveDeadline(time.Now().Add(pieceTimeout)); err != nil {
		return err
	}
	var q pb.ArtifactPull
	if err := ch.Receive(&q); err != nil {
		return err
	}
	err := s.answer(ctx, ch, &q)
	if err == nil {
		return nil
	}
	piece := &pb.ArtifactPiece{}
	piece.Kind, piece.Error, piece.Hint = wire.ToFault(err)
	return ch.Send(piece)
}

func (s *Store) answer(ctx context.Context, ch *mesh.Channel, q *pb.ArtifactPull) error {
	d, err := ParseDigest(q.GetDigest())
	if err != nil {
		return err
	}
	if q.GetInfo() {
		var info *pb.ArtifactInfo
		if info, err = s.Info(d); err != nil {
			return err
		}
		if _, has := s.Size(d); !has { // it is here in part
			return fault.New(fault.NotFound, "serve an artifact", string(d)+" is not here")
		}
		return ch.Send(&pb.ArtifactPiece{Info: info, Last: true})
	}
	f, err := s.Use(d)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	size, _ := s.Size(d)
	from := q.GetChunk() * ChunkSize
	if q.GetChunk() < 0 || q.GetChunk() > MaxSize/ChunkSize || from >= size {
		return fault.New(fault.BadInput, "serve an artifact", fmt.Sprintf("it has no chunk %d", q.GetChunk()))
	}
	return send(ctx, ch, io.NewSectionReader(f, from, min(ChunkSize, size-from)))
}

// send sends a chunk in pieces; flow control bounds what is on the way.
func send(ctx context.Context, ch *mesh.Channel, r *io.SectionReader) error {
	buf := make([]byte, pieceSize)
	for left := r.Size(); left > 0 && ctx.Err() == nil; {
		n, err := io.ReadFull(r, buf[:min(pieceSize, left)])
		if err != nil {
			return fault.Wrap(fault.Unavailable, "serve an artifact", err)
		}
		left -= int64(n)
		if err := ch.Send(&pb.ArtifactPiece{Data: buf[:n], Last: left == 0}); err != nil {
			return err
		}
	}
	return ctx.Err()
}
