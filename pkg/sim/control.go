package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// The messages of the control socket.
type (
	setRequest struct {
		Ref   string `json:"ref"`
		Value string `json:"value"`
	}
	faultRequest struct {
		Kind  bmcsim.FaultKind `json:"kind"`
		Delay time.Duration    `json:"delay,omitempty"` // ns
		For   time.Duration    `json:"for,omitempty"`   // ns
	}
	logRequest struct {
		Key  string `json:"key"`
		Text string `json:"text"`
	}
	errorReply struct {
		Kind  fault.Kind `json:"kind"`
		Error string     `json:"error"`
		Hint  string     `json:"hint,omitempty"`
	}
)

// Reading is what an element reads as, as text with its unit.
type Reading struct {
	Ref       string     `json:"ref"`
	Value     string     `json:"value"`
	Instances []Instance `json:"instances,omitempty"`
}

// Instance is one of several values behind a reading.
type Instance struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// NodeStats are the counters of one BMC.
type NodeStats struct {
	Name        fleet.NodeName `json:"name"`
	Requests    int            `json:"requests"`
	ByMethod    map[string]int `json:"by_method"`
	Writes      int            `json:"writes"`
	Logins      int            `json:"logins"`
	Denied      int            `json:"denied"`
	Sessions    int            `json:"sessions"`
	Handshakes  int            `json:"handshakes"`
	Connections int            `json:"connections"`
}

// Stats are the counters of all BMCs in the order of the rack.
func (r *Rack) Stats() []NodeStats {
	list := make([]NodeStats, len(r.units))
	for i, u := range r.units {
		s := u.bmc.Stats()
		list[i] = NodeStats{
			Name: u.name, Requests: s.Total(), ByMethod: s.Requests, Writes: s.Writes, Logins: s.Logins, Denied: s.Denied,
			Sessions: s.Sessions, Handshakes: s.Handshakes, Connections: s.Connections,
		}
	}
	return list
}

// ResetStats sets the counters of all BMCs to zero.
func (r *Rack) ResetStats() {
	for _, u := range r.units {
		u.bmc.ResetStats()
	}
}

// serveControl answers on the control socket until ctx ends.
func (r *Rack) serveControl(ctx context.Context) error {
	srv := &http.Server{
		Handler:           http.MaxBytesHandler(r.controlHandler(), 64<<10),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(r.control) }()
	select {
	case err := <-done:
		return fault.Wrap(fault.Internal, "serve the control socket", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := srv.Shutdown(grace)
	if served := <-done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return fault.Wrap(fault.Internal, "stop the control socket", err)
}

func (r *Rack) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /nodes", answer(func(*http.Request) (any, error) { return r.Nodes(), nil }))
	mux.Handle("GET /stats", answer(func(*http.Request) (any, error) { return r.Stats(), nil }))
	mux.Handle("DELETE /stats", answer(func(*http.Request) (any, error) { r.ResetStats(); return struct{}{}, nil }))
	mux.Handle("GET /nodes/{node}/requests", answer(r.getRequests))
	mux.Handle("GET /nodes/{node}/readings", answer(r.getReadings))
	mux.Handle("POST /nodes/{node}/set", answer(r.postSet))
	mux.Handle("POST /nodes/{node}/fault", answer(r.postFault))
	mux.Handle("POST /nodes/{node}/log", answer(r.postLog))
	mux.Handle("DELETE /nodes/{node}/sessions", answer(r.deleteSessions))
	return mux
}

// answer writes what f returns as JSON, or its error.
func answer(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v, err := f(req)
		status := http.StatusOK
		if err != nil {
			status = http.StatusUnprocessableEntity
			v = errorReply{Kind: fault.KindOf(err), Error: err.Error(), Hint: fault.HintOf(err)}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v) // the only failure is a client that left
	})
}

func (r *Rack) node(req *http.Request) (*bmcsim.BMC, error) {
	return r.BMC(fleet.NodeName(req.PathValue("node")))
}

// getRequests are the last requests that a BMC has answered, oldest first.
func (r *Rack) getRequests(req *http.Request) (any, error) {
	b, err := r.node(req)
	if err != nil {
		return nil, err
	}
	return b.Requests(), nil
}

func (r *Rack) getReadings(req *http.Request) (any, error) {
	bmc, err := r.node(req)
	if err != nil {
		return nil, err
	}
	list, err := bmc.Get(req.URL.Query().Get("ref"))
	if err != nil {
		return nil, err
	}
	out := make([]Reading, len(list))
	for i, x := range list {
		out[i] = Reading{Ref: x.Ref, Value: x.Value.Short()}
		for _, in := range x.Instances {
			out[i].Instances = append(out[i].Instances, Instance{Name: in.Name, Value: in.Value.Short()})
		}
	}
	return out, nil
}

func (r *Rack) postSet(req *http.Request) (any, error) {
	bmc, err := r.node(req)
	if err != nil {
		return nil, err
	}
	var m setRequest
	if err := read(req, &m); err != nil {
		return nil, err
	}
	return struct{}{}, bmc.Set(m.Ref, m.Value)
}

func (r *Rack) postFault(req *http.Request) (any, error) {
	bmc, err := r.node(req)
	if err != nil {
		return nil, err
	}
	var m faultRequest
	if err := read(req, &m); err != nil {
		return nil, err
	}
	return struct{}{}, bmc.Fault(bmcsim.Fault{Kind: m.Kind, Delay: m.Delay, For: m.For})
}

func (r *Rack) postLog(req *http.Request) (any, error) {
	bmc, err := r.node(req)
	if err != nil {
		return nil, err
	}
	var m logRequest
	if err := read(req, &m); err != nil {
		return nil, err
	}
	return struct{}{}, bmc.Log(m.Key, m.Text)
}

func (r *Rack) deleteSessions(req *http.Request) (any, error) {
	bmc, err := r.node(req)
	if err != nil {
		return nil, err
	}
	return struct{}{}, bmc.ForgetSessions()
}

func read(req *http.Request, v any) error {
	dec := json.NewDecoder(req.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fault.New(fault.BadInput, "read the command", fmt.Sprintf("not the JSON that is wanted: %v", err))
	}
	return nil
}
