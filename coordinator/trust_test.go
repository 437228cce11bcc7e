package coordinator_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/pkg/wire/pb/pbconnect"
	"github.com/chiba-mesh/chiba/trust"
)

// A coordinator renews its own certificate at half its life, with the names it has;
// sessions under way do not notice, a restart finds it.
func TestOwnCertificateIsRenewed(t *testing.T) {
	w := newWorld(t)
	conf := w.config()
	conf.Certs, conf.Authority = filepath.Join(w.dir, "c1"), w.ca
	c := w.start(conf)
	r := w.rack(c, "r1")
	before := c.Certificate()
	if err := c.RenewAt(trust.HalfLife(before).Add(-time.Minute)); err != nil || !c.Certificate().Equal(before) {
		t.Errorf("before half its life: %v", err)
	}
	if err := c.RenewAt(trust.HalfLife(before).Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	after := c.Certificate()
	if after.Equal(before) || len(after.IPAddresses) != 1 || !after.IPAddresses[0].Equal(before.IPAddresses[0]) {
		t.Errorf("renewed for %v", after.IPAddresses)
	}
	kept, err := trust.Load(conf.Certs)
	if err != nil || !kept.Certificate.Leaf.Equal(after) {
		t.Errorf("on disk: %v", err)
	}
	if r.conn.Err() != nil {
		t.Errorf("a session has ended: %v", r.conn.Err())
	}
	w.rack(c, "r2")
	if _, err := c.fleet.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{})); err != nil {
		t.Error(err)
	}
}

// operator is another operator's client.
func (w *world) operator(c *running, name string) pbconnect.FleetClient {
	w.t.Helper()
	transport := &http.Transport{TLSClientConfig: w.credentials(trust.Operator, name).Client(), ForceAttemptHTTP2: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	return pbconnect.NewFleetClient(&http.Client{Transport: transport}, "https://"+c.APIAddr())
}

// Operators deny and allow; who is denied loses the streams under way and the next
// call, and a restart that begins from a snapshot or the log still knows.
func TestThreat24RevokedOperatorWithALiveStream(t *testing.T) {
	w := newWorld(t)
	c := w.start(w.config())
	bad := w.operator(c, "eve")
	stream, err := bad.Watch(t.Context(), connect.NewRequest(&pb.WatchRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	deny := func(who string) (*connect.Response[pb.DenyReply], error) {
		return c.fleet.Deny(t.Context(), connect.NewRequest(&pb.DenyRequest{Subject: who, Reason: "left the firm"}))
	}
	got, err := deny("operator/eve")
	if err != nil || got.Msg.GetDenial().GetBy() != "ada" {
		t.Fatal(got, err)
	}
	applied := time.Now()
	for stream.Receive() {
	}
	if took := time.Since(applied); took > time.Second {
		t.Errorf("its stream has ended after %s", took)
	}
	status := func() error {
		_, refused := bad.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
		return refused
	}
	if status() == nil {
		t.Error("it may still call")
	}
	if _, err = deny("operator/ada"); err == nil || !strings.Contains(err.Error(), "is you") {
		t.Errorf("one shuts oneself out: %v", err)
	}
	if _, err = deny("everybody"); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("nobody is denied: %v", err)
	}
	c.stop()
	c = w.start(w.config())
	bad = w.operator(c, "eve")
	if status() == nil {
		t.Error("a restart lets it in")
	}
	list, err := c.fleet.ListDenied(t.Context(), connect.NewRequest(&pb.ListDeniedRequest{}))
	if err != nil || len(list.Msg.GetDenied()) != 1 || list.Msg.GetDenied()[0].GetReason() != "left the firm" {
		t.Errorf("the list: %v, %v", list, err)
	}
	if _, err := c.fleet.Allow(t.Context(), connect.NewRequest(&pb.AllowRequest{Subject: "operator/eve"})); err != nil {
		t.Fatal(err)
	}
	if err := status(); err != nil {
		t.Errorf("allowed, and refused: %v", err)
	}
	if _, err := c.fleet.Allow(t.Context(), connect.NewRequest(&pb.AllowRequest{Subject: "operator/eve"})); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("allowed twice: %v", err)
	}
}
