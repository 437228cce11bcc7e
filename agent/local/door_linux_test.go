package local_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"github.com/chiba-mesh/chiba/agent/local"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/unixsock"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
)

const knockEnv = "CHIBA_TEST_KNOCK"

func TestMain(m *testing.M) {
	if path := os.Getenv(knockEnv); path != "" {
		knock(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// knock is another user, who asks for the nodes.
func knock(path string) {
	c, err := dial(path)
	if err == nil {
		_, err = c.Nodes(context.Background())
	}
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error() + "\n")
	}
}

func dial(path string) (*client.Client, error) {
	where, err := client.Locate("", path)
	if err != nil {
		return nil, err
	}
	return client.Open(where, nil)
}

// open opens a door with some methods until the test ends.
func open(t *testing.T, methods map[string]local.Method) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cd") //nolint:usetesting // others must be able to reach it
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "a.sock")
	d := local.New(local.Config{Path: path, Methods: methods, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the door ended with %v", err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("it left its socket: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	for deadline := time.Now().Add(time.Minute); !unixsock.Answers(t.Context(), path); {
		if time.Now().After(deadline) {
			t.Fatal("nobody answers")
		}
	}
	return path
}

func connected(t *testing.T, path string) *client.Client {
	t.Helper()
	c, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// The client that speaks to coordinators speaks to the door, and sees no difference.
func TestTheDoorSpeaksAsACoordinator(t *testing.T) {
	var asked local.User
	path := open(t, map[string]local.Method{
		"ListNodes": local.Unary(func(ctx context.Context, _ *pb.ListNodesRequest) (*pb.ListNodesReply, error) {
			asked = local.UserOf(ctx)
			return &pb.ListNodesReply{Nodes: []*pb.Node{{Name: "n1"}}}, nil
		}),
		"GetRun": local.Unary(func(_ context.Context, q *pb.GetRunRequest) (*pb.GetRunReply, error) {
			return nil, fault.New(fault.NotFound, "get run", "there is no run "+q.GetId()).WithHint("see:\nget runs")
		}),
		"Watch": local.Stream(func(_ context.Context, q *pb.WatchRequest, send func(*pb.Event) error) error {
			for _, name := range []string{"a", "b"} {
				if err := send(&pb.Event{Body: &pb.Event_RemovedScript{RemovedScript: name}}); err != nil {
					return err
				}
			}
			return fault.New(fault.Unavailable, "watch", "the disk is full")
		}),
		"ListRuns": local.Unary(func(context.Context, *pb.ListRunsRequest) (*pb.ListRunsReply, error) { panic("a bug") }),
	})
	c := connected(t, path)
	nodes, err := c.Nodes(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0].Name != "n1" {
		t.Errorf("nodes: %v, %v", nodes, err)
	}
	if int(asked.UID) != os.Getuid() {
		t.Errorf("asked by %v", asked)
	}
	_, _, err = c.Run(t.Context(), "R9")
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "there is no run R9") || fault.HintOf(err) != "see: get runs" {
		t.Errorf("no run: %v, %s", err, fault.HintOf(err))
	}
	var removed []fleet.ScriptName
	for e, watchErr := range c.Watch(t.Context(), false) {
		if err = watchErr; err == nil {
			removed = append(removed, e.RemovedScript)
		}
	}
	if len(removed) != 2 || !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("watched %v, %v", removed, err)
	}
	if _, err = c.Agents(t.Context()); !fault.Is(err, fault.Unsupported) || fault.HintOf(err) == "" {
		t.Errorf("what it can't do: %v", err)
	}
	if _, err = c.Runs(t.Context()); !fault.Is(err, fault.Internal) {
		t.Errorf("a bug: %v", err)
	}
	if _, err = c.Nodes(t.Context()); err != nil {
		t.Errorf("after a bug: %v", err)
	}
}

// The kernel says who knocks: the mode of the socket is not all that keeps others out.
func TestOthersAreNotLetIn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	var heard atomic.Bool
	path := open(t, map[string]local.Method{
		"ListNodes": local.Unary(func(context.Context, *pb.ListNodesRequest) (*pb.ListNodesReply, error) {
			heard.Store(true)
			return &pb.ListNodesReply{}, nil
		}),
	})
	if at, err := os.Stat(path); err != nil || at.Mode().Perm() != 0o600 {
		t.Fatalf("the socket: %v, %v", at, err)
	}
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	self := filepath.Join(filepath.Dir(path), "self")
	if text, err := os.ReadFile(os.Args[0]); err != nil || os.WriteFile(self, text, 0o755) != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	ask := func() string {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env, cmd.Dir, cmd.SysProcAttr = []string{knockEnv + "=" + path}, "/", nobody
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if got := ask(); !strings.Contains(got, "is not for us") {
		t.Errorf("by the mode of the socket: %s", got)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := ask(); !strings.Contains(got, "may not speak to this agent") {
		t.Errorf("by who they are: %s", got)
	}
	if heard.Load() {
		t.Error("the method was called")
	}
}

// What is no call is answered, and harms nobody.
func TestGarbageAtTheDoor(t *testing.T) {
	path := open(t, map[string]local.Method{
		"ListNodes": local.Unary(func(context.Context, *pb.ListNodesRequest) (*pb.ListNodesReply, error) {
			return &pb.ListNodesReply{}, nil
		}),
		"Watch": local.Stream(func(context.Context, *pb.WatchRequest, func(*pb.Event) error) error { return nil }),
	})
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, path)
	}}}
	const unary, stream = "application/proto", "application/connect+proto"
	for name, c := range map[string]struct {
		method, path, kind string
		body               string
		status             int
		says               string
	}{
		"a browser":                {http.MethodGet, "/", "", "", 404, ""},
		"another service":          {http.MethodPost, "/chiba.v1.Other/ListNodes", unary, "", 404, ""},
		"JSON":                     {http.MethodPost, "/chiba.v1.Fleet/ListNodes", "application/json", "{}", 415, "protobuf"},
		"a stream of what is none": {http.MethodPost, "/chiba.v1.Fleet/ListNodes", stream, "\x00\x00\x00\x00\x00", 415, ""},
		"no protobuf":              {http.MethodPost, "/chiba.v1.Fleet/ListNodes", unary, "\xff", 500, "data_loss"},
		"a frame cut short":        {http.MethodPost, "/chiba.v1.Fleet/Watch", stream, "\x00\x00\x00\x00\x09x", 200, "data_loss"},
		"a compressed frame":       {http.MethodPost, "/chiba.v1.Fleet/Watch", stream, "\x01\x00\x00\x00\x00", 200, "data_loss"},
		"too much":                 {http.MethodPost, "/chiba.v1.Fleet/ListNodes", unary, strings.Repeat("x", 17<<20), 429, "resource_exhausted"},
		"a call":                   {http.MethodPost, "/chiba.v1.Fleet/ListNodes", unary, "", 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := http.NewRequestWithContext(t.Context(), c.method, "http://agent"+c.path, bytes.NewBufferString(c.body))
			if err != nil {
				t.Fatal(err)
			}
			q.Header.Set("Content-Type", c.kind)
			a, err := plain.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(a.Body)
			_ = a.Body.Close()
			if err != nil || a.StatusCode != c.status || !strings.Contains(string(text), c.says) {
				t.Errorf("status %d, %q, %v; want %d, %s", a.StatusCode, text, err, c.status, c.says)
			}
		})
	}
}

// Who has stopped waiting is not worked for.
func TestADeadlineReachesTheMethod(t *testing.T) {
	ended := make(chan error, 1)
	path := open(t, map[string]local.Method{
		"ListNodes": local.Unary(func(ctx context.Context, _ *pb.ListNodesRequest) (*pb.ListNodesReply, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}),
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := connected(t, path).Nodes(ctx); !fault.Is(err, fault.Timeout) {
		t.Errorf("the caller was told %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the method was not")
	}
}

// What the codes of the protocol are called, the library knows.
func TestTheCodesAreThoseOfTheProtocol(t *testing.T) {
	for _, k := range []fault.Kind{
		fault.BadInput, fault.NotFound, fault.Conflict, fault.Denied, fault.Untrusted, fault.Unsupported, fault.Unavailable,
		fault.Timeout, fault.TooLarge, fault.Garbage, fault.Canceled, fault.Internal,
	} {
		var code connect.Code
		if err := code.UnmarshalText([]byte(local.CodeOf(k))); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
}
