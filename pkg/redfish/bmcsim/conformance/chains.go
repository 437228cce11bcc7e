package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const otherPassword = "Test-Pass-2026" // of the accounts the recordings make

// chain is what was recorded on one BMC without a fresh start between.
type chain struct {
	name       string
	groups     []string
	recordings []recording
}

// chains are the groups in the order of their recording. A group that is not
// named gets a BMC of its own.
var chains = [][]string{
	{"A_protocol"},
	{"B_session", "C_accounts", "C_priv_tstro", "C_priv_tstop"},
	{"D_systems", "E_managers", "F_chassis"},
	{"G_certs", "G_mtls"},
	{"G_strict"},
	{"H_events", "I_update"},
	{"J_misc"},
	{"G_cert2", "G_cert2_par0", "G_cert2_par1", "G_cert2_par2", "G_trust2"},
	{"K_persist"},
	{"K_open"},
	{"E_journal"},
	{"H_replay", "H_replay_q"},
	{"L_default"},
}

// plan puts every recording into its chain; only, if given, is the prefix of
// the groups to play.
func plan(list []recording, only string) []chain {
	var plan []chain
	for _, groups := range chains {
		plan = append(plan, chain{name: strings.Join(groups, " "), groups: groups})
	}
	for _, rec := range list {
		if !strings.HasPrefix(rec.group, only) {
			continue
		}
		i := slices.IndexFunc(plan, func(c chain) bool { return slices.Contains(c.groups, rec.group) })
		if i < 0 {
			plan = append(plan, chain{name: rec.group, groups: []string{rec.group}})
			i = len(plan) - 1
		}
		plan[i].recordings = append(plan[i].recordings, rec)
	}
	plan = slices.DeleteFunc(plan, func(c chain) bool { return len(c.recordings) == 0 })
	for _, c := range plan {
		slices.SortStableFunc(c.recordings, func(a, b recording) int { return strings.Compare(c.place(a), c.place(b)) })
	}
	return plan
}

// place sorts by group and number, but for exchanges that ran amid another
// group: what two roles may do was tried right after their accounts were made.
func (c chain) place(rec recording) string {
	if after, found := amid[rec.group]; found {
		return after + rec.name
	}
	if after, found := amid[strings.TrimSuffix(rec.name[:len(rec.group)+4], "_")]; found {
		return after
	}
	return string(rune('A'+slices.Index(c.groups, rec.group))) + rec.name
}

// amid are groups and single exchanges by the place they were recorded at.
var amid = map[string]string{
	"C_priv_tstro":   "BC_accounts_018z",
	"C_priv_tstop":   "BC_accounts_018z",
	"H_replay_q_001": "AH_replay_027z",
	"H_replay_q_002": "AH_replay_028z",
	"H_replay_q_003": "AH_replay_029z",
	"H_replay_q_004": "AH_replay_030z",
	"H_replay_q_005": "AH_replay_031z",
}

// config is the BMC that a chain was recorded with.
func (c chain) config() bmcsim.Config {
	cfg := bmcsim.Config{
		PowerOn: true, Serial: "SYS0001",
		Drives: []bmcsim.Drive{{ID: "drive0", Bytes: 1 << 40, Media: "SSD"}},
		Board:  true,
		PCIe:   []bmcsim.PCIe{{ID: "nic0", Manufacturer: "NVIDIA", Model: "ConnectX-6 Dx", Part: "MCX623106AN"}},
	}
	switch {
	case c.has("G_cert2"):
		cfg.CSRTime = 50 * time.Millisecond
	case c.has("J_misc"):
		cfg.DBusLog = true
	}
	return cfg
}

func (c chain) has(group string) bool { return slices.Contains(c.groups, group) }

// prepare brings the BMC into the state that a chain begins with.
func (r *replayer) prepare(ctx context.Context) error {
	if r.has("J_misc") {
		return r.log(4)
	}
	if !r.has("K_open") {
		return nil
	}
	// One certificate came and went before, and somebody else had a session.
	token := r.login(ctx, "root", bmcsim.DefaultPassword)
	der, err := r.twins.named("Earlier CA")
	if err != nil {
		return err
	}
	text, err := der.selfSigned()
	if err != nil {
		return err
	}
	a := r.post(ctx, token, truststore, map[string]any{"CertificateString": text})
	if a.err != nil || a.status != http.StatusOK {
		return fmt.Errorf("add a certificate: %d %w", a.status, a.err)
	}
	if a = r.request(ctx, http.MethodDelete, token, truststore+"/1"); a.status != http.StatusNoContent {
		return fmt.Errorf("remove it: %d %w", a.status, a.err)
	}
	other := r.post(ctx, "", sessions, map[string]any{"UserName": "root", "Password": bmcsim.DefaultPassword})
	r.names["Yto5K0Kyfz"] = path.Base(other.header.Get("Location"))
	return other.err
}

const (
	sessions   = "/redfish/v1/SessionService/Sessions"
	truststore = "/redfish/v1/Managers/bmc/Truststore/Certificates"
)

// log writes entries into the event log, two of them in one second.
func (r *replayer) log(n int) error {
	for i := range n {
		if err := r.bmc.Log("PowerSupplyFanFailed", fmt.Sprintf("Power supply 0 fan %d failed.", i), "0", strconv.Itoa(i)); err != nil {
			return err
		}
		if i != 1 {
			r.clock.advance(time.Second)
		}
	}
	return nil
}

// after does what happened beside the recording once an exchange is over.
func (r *replayer) after(ctx context.Context, rec recording) error {
	switch rec.name {
	case "H_events_029_DELETE_sub":
		return r.awaitEnd(ctx, r.names["1921602903"])
	case "J_misc_029_SessionService":
		return r.crowd(ctx)
	case "L_default_004_subscribe":
		return r.log(5)
	case "L_default_012_Entries_after_clear", "L_default_013_Entries_after_clear_1":
		return r.log(1)
	case "H_replay_029_password_change":
		for _, later := range r.recordings {
			if strings.HasPrefix(later.name, "H_replay_q_004") {
				r.tokens[later.Request.Headers["X-Auth-Token"]] = r.login(ctx, "tstx", "Test-Pass-2027")
			}
		}
	}
	return nil
}

// awaitEnd lets the retries of a subscription run out.
func (r *replayer) awaitEnd(ctx context.Context, id string) error {
	token := r.login(ctx, "root", bmcsim.DefaultPassword)
	for range 200 {
		r.clock.advance(30 * time.Second)
		if a := r.request(ctx, http.MethodGet, token, "/redfish/v1/EventService/Subscriptions/"+id); a.status == http.StatusNotFound {
			return nil
		}
		<-time.After(10 * time.Millisecond)
	}
	return errors.New("the subscription is still there")
}

// crowd fills the BMC with idle connections, one for every place there is.
func (r *replayer) crowd(ctx context.Context) error {
	r.plain.CloseIdleConnections()
	for range 200 {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(r.base, "https://"))
		if err != nil {
			return err
		}
		r.stops = append(r.stops, func() { _ = conn.Close() })
	}
	for r.bmc.Stats().Open < 200 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// request is one of the preparation, without a body.
func (r *replayer) request(ctx context.Context, method, token, path string) answer {
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, http.NoBody)
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("X-Auth-Token", token)
	return do(r.plain, req)
}
