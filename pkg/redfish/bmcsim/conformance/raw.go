package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// The recordings below the level of requests: bytes on a TLS connection, and
// what came back until the server closed it or was silent.
const (
	rawFile       = "A_raw_http_tls.json"
	websocketFile = "J_websocket_upgrade.json"
	timeoutsFile  = "J_timeouts.json"
)

// rawExchange is one such connection.
type rawExchange struct {
	Name     string
	Sent     string
	Received string
	Info     struct {
		ALPN      string
		End       string // "closed by server", or "timeout(open)"
		Exception string
	}
}

// Patience of a replay: quiet is how long silence must last to count, and cut how
// long the simulator waits where a real BMC waits 15 s.
const (
	quiet = 150 * time.Millisecond
	cut   = 400 * time.Millisecond
)

// rawReasons are the connections on which the simulator is known not to do as a
// real BMC does. What a client sees of them is the same: it was refused.
func rawReasons() map[string]string {
	return map[string]string{
		"no Host header": "net/http answers before the simulator: the same 400, with a text, and closes",
		"huge header":    "net/http answers before the simulator: the same 431, with a text",
		"garbage":        "net/http says 400 before it closes, bmcweb closes without a word",
		"GET /console0":  "there is no console in the simulator: Redfish does not have it",
		"GET /kvm/0":     "there is no screen in the simulator: Redfish does not have it",
	}
}

// rawExchanges are the connections in the files that are no exchange of requests.
func rawExchanges(files map[string][]byte) (list []rawExchange, err error) {
	if text, found := files[rawFile]; found {
		if err := json.Unmarshal(text, &list); err != nil {
			return nil, fmt.Errorf("read %s: %w", rawFile, err)
		}
	}
	var upgrades map[string]string
	if text, found := files[websocketFile]; found {
		if err := json.Unmarshal(text, &upgrades); err != nil {
			return nil, fmt.Errorf("read %s: %w", websocketFile, err)
		}
	}
	for path, received := range upgrades {
		x := rawExchange{Name: "GET " + path, Received: received}
		x.Sent = "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b rawExchange) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// playRaw replays connections on a BMC of their own and reports like run. It tells
// whether every difference has its reason.
func playRaw(ctx context.Context, out io.Writer, files map[string][]byte) (explained bool, err error) {
	list, err := rawExchanges(files)
	if err != nil || len(list) == 0 {
		return true, err
	}
	r := &rawReplayer{}
	stop, err := r.serve(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	equal, explained := 0, true
	for _, x := range list {
		diff := r.replay(ctx, x)
		reason, listed := rawReasons()[x.Name]
		switch {
		case diff == "" && listed:
			explained = false
			fmt.Fprintf(out, "connection %q is equal, but listed as one that is not\n", x.Name)
		case diff == "":
			equal++
		case listed && (!strings.HasPrefix(diff, "status") || !strings.HasPrefix(reason, "net/http answers")):
			fmt.Fprintf(out, "connection %q: %s\n", x.Name, reason)
		default:
			explained = false
			fmt.Fprintf(out, "connection %q differs: %s\n", x.Name, diff)
		}
	}
	fmt.Fprintf(out, "%-40s %3d of %3d\n", "raw connections, beside the exchanges", equal, len(list))
	if _, recorded := files[timeoutsFile]; recorded {
		if diff := r.patience(ctx); diff != "" {
			explained = false
			fmt.Fprintln(out, "patience differs:", diff)
		} else {
			fmt.Fprintf(out, "half requests and idle handshakes are cut after the BMC's patience (15 s, here %s), idle keep-alive connections are not\n", cut)
		}
	}
	return explained, nil
}

type rawReplayer struct {
	bmc     *bmcsim.BMC
	address string
}

func (r *rawReplayer) serve(ctx context.Context) (stop func() error, err error) {
	if r.bmc, err = bmcsim.New(bmcsim.Config{Patience: cut}); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r.address = l.Addr().String()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.bmc.Serve(ctx, l) }()
	return func() error { cancel(); return <-done }, nil
}

func (r *rawReplayer) dial(ctx context.Context, protocols []string, newest uint16) (*tls.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS12, MaxVersion: newest, NextProtos: protocols,
		// The BMC is our own, on the loopback, and its key is compared below.
		InsecureSkipVerify: true, //nolint:gosec // verified by pin in VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) error {
			if bmcsim.PinOf(cs.PeerCertificates[0]) != r.bmc.Pin() {
				return errors.New("the BMC's key is not the pinned one")
			}
			return nil
		},
	}}
	conn, err := d.DialContext(ctx, "tcp", r.address)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil //nolint:forcetypeassert // of a tls.Dialer
}

// replay is "" if the connection went as recorded.
func (r *rawReplayer) replay(ctx context.Context, x rawExchange) string {
	var protocols []string
	switch {
	case strings.Contains(x.Name, "h2"):
		protocols = []string{"h2", "http/1.1"}
	case x.Info.ALPN != "":
		protocols = []string{x.Info.ALPN}
	}
	newest := uint16(0)
	if x.Info.Exception != "" {
		newest = tls.VersionTLS12
	}
	conn, err := r.dial(ctx, protocols, newest)
	if err != nil || x.Info.Exception != "" {
		return refusedAs(err, x.Info.Exception)
	}
	defer func() { _ = conn.Close() }() // it was only looked at
	if got := conn.ConnectionState().NegotiatedProtocol; got != x.Info.ALPN {
		return fmt.Sprintf("the protocol is %q, recorded %q", got, x.Info.ALPN)
	}
	if _, err := io.WriteString(conn, x.Sent); err != nil {
		return err.Error()
	}
	got, closed := hear(conn)
	if diff := sameStatus(got, x.Received); diff != "" {
		return diff
	}
	if x.Info.End != "" && closed != (x.Info.End == "closed by server") {
		return fmt.Sprintf("closed is %v, recorded: %s", closed, x.Info.End)
	}
	if x.Info.ALPN == "h2" {
		return sameFrame(got, x.Received)
	}
	return sameAnswers(got, x.Received)
}

func refusedAs(err error, recorded string) string {
	if err == nil || strings.Contains(recorded, "PROTOCOL_VERSION") && !strings.Contains(err.Error(), "protocol version") {
		return fmt.Sprintf("%v, recorded %q", err, recorded)
	}
	return ""
}

// hear is everything that comes until the other side closes, or is quiet.
func hear(conn net.Conn) (text string, closed bool) {
	var all strings.Builder
	buf := make([]byte, 64<<10)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(quiet)) // on our own open connection
		n, err := conn.Read(buf)
		all.Write(buf[:n])
		var late net.Error
		switch {
		case errors.As(err, &late) && late.Timeout():
			return all.String(), false
		case err != nil:
			return all.String(), true
		}
	}
}

// sameFrame compares the type of the first HTTP/2 frame: the server's settings.
func sameFrame(got, recorded string) string {
	if len(got) < 9 || len(recorded) < 9 || got[3] != recorded[3] {
		return fmt.Sprintf("the first frame is %q, recorded %q", got, recorded)
	}
	return ""
}

// sameStatus compares what every client looks at first.
func sameStatus(got, recorded string) string {
	ours, theirs := answersIn(got), answersIn(recorded)
	for i := range min(len(ours), len(theirs)) {
		if ours[i][:3] != theirs[i][:3] {
			return fmt.Sprintf("status %s, recorded %s", ours[i], theirs[i])
		}
	}
	return ""
}

// sameAnswers compares answers by status, headers and the presence of a body.
func sameAnswers(got, recorded string) string {
	return cmp.Diff(answersIn(recorded), answersIn(got))
}

func answersIn(text string) (all []string) {
	in := bufio.NewReader(strings.NewReader(text))
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return all
		}
		body, _ := io.ReadAll(res.Body) // what is cut short is short
		_ = res.Body.Close()
		headers := comparable(flat(res.Header))
		if headers["Sec-Websocket-Accept"] != "" {
			headers["Sec-Websocket-Accept"] = "of the key"
		}
		all = append(all, fmt.Sprintf("%d, a body: %v, closes: %v, %v", res.StatusCode, len(body) > 0, res.Close, headers))
	}
}

// patience is "" if what stops in its middle is cut after the BMC's patience, and
// what is merely idle is not.
func (r *rawReplayer) patience(ctx context.Context) string {
	for name, sent := range map[string]string{
		"half header": "GET /redfish HTTP/1.1\r\nHost:",
		"half body":   "POST /redfish/v1/SessionService/Sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"nothing":     "",
	} {
		conn, err := r.dial(ctx, nil, 0)
		if err != nil {
			return err.Error()
		}
		took, answered := closesAfter(conn, sent)
		if answered || took < cut/2 || took > 20*cut {
			return fmt.Sprintf("%s: answered %v, closed after %s", name, answered, took)
		}
	}
	conn, err := r.dial(ctx, nil, 0)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }() // it was only looked at
	if _, err := io.WriteString(conn, "GET /redfish HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err.Error()
	}
	for begun := time.Now(); time.Since(begun) < 3*cut; {
		if _, closed := hear(conn); closed {
			return "an idle keep-alive connection was closed"
		}
	}
	return ""
}

// closesAfter is how long a connection stays open on which only this is sent.
func closesAfter(conn net.Conn, sent string) (took time.Duration, answered bool) {
	defer func() { _ = conn.Close() }() // it was only looked at
	begun := time.Now()
	if _, err := io.WriteString(conn, sent); err != nil {
		return 0, true
	}
	_ = conn.SetReadDeadline(begun.Add(20 * cut)) // on our own open connection
	n, _ := io.Copy(io.Discard, conn)             // until it is closed, however
	return time.Since(begun), n > 0
}
