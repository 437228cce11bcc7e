package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/sim"
)

// pinned is a transport that trusts one BMC by its key.
func pinned(n sim.Node) *http.Transport {
	return &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			// A BMC's own certificate has neither a chain nor a useful name: its key
			// is compared with the pin below, on every connection.
			InsecureSkipVerify: true, //nolint:gosec // verified in VerifyConnection
			VerifyConnection: func(cs tls.ConnectionState) error {
				if len(cs.PeerCertificates) == 0 || bmcsim.PinOf(cs.PeerCertificates[0]) != n.Pin {
					return errors.New("this is another BMC's key")
				}
				return nil
			},
		},
	}
}

// ideal is the least that a program can do which knows everything beforehand: no
// discovery, no reading back.
type ideal struct {
	base           string
	start          start
	http           *http.Client
	token, session string
}

func newIdeal(n sim.Node, from start) *ideal {
	return &ideal{base: "https://" + n.Address, start: from, http: &http.Client{Transport: pinned(n)}}
}

func (i *ideal) prepare(ctx context.Context, _ string) error {
	if i.start == cold {
		return nil
	}
	err := i.logIn(ctx)
	if i.start == session {
		i.http.CloseIdleConnections()
	}
	return err
}

func (i *ideal) logIn(ctx context.Context) error {
	const sessions = "/redfish/v1/SessionService/Sessions"
	res, err := i.send(ctx, http.MethodPost, sessions, `{"UserName":"root","Password":"`+rootPassword+`"}`)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20)); err != nil {
		return err
	}
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("log in: %s", res.Status)
	}
	i.token, i.session = res.Header.Get("X-Auth-Token"), res.Header.Get("Location")
	return nil
}

func (i *ideal) close(ctx context.Context) error {
	defer i.http.CloseIdleConnections()
	if i.session == "" {
		return nil // it never got in
	}
	_, err := i.ask(ctx, http.MethodDelete, i.session, "")
	return err
}

func (i *ideal) do(ctx context.Context, work string) error {
	const system, sensors = "/redfish/v1/Systems/system", "/redfish/v1/Chassis/chassis/Sensors"
	if i.start == cold {
		if err := i.logIn(ctx); err != nil {
			return err
		}
	}
	switch work {
	case workW1:
		_, err := i.ask(ctx, http.MethodPatch, system, `{"Boot":{"BootSourceOverrideTarget":"Pxe","BootSourceOverrideEnabled":"Once"}}`)
		if err != nil {
			return err
		}
		_, err = i.ask(ctx, http.MethodPost, system+"/Actions/ComputerSystem.Reset", `{"ResetType":"ForceRestart"}`)
		return err
	case workW3:
		body, err := i.ask(ctx, http.MethodGet, sensors+"?$expand=.($levels=1)", "")
		if err != nil {
			return err
		}
		return readings(body)
	}
	body, err := i.ask(ctx, http.MethodGet, sensors, "")
	if err != nil {
		return err
	}
	var list struct {
		Members []struct {
			ID string `json:"@odata.id"`
		}
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return err
	}
	return i.each(ctx, list.Members)
}

// each asks for all members, four at a time.
func (i *ideal) each(ctx context.Context, members []struct {
	ID string `json:"@odata.id"`
},
) error {
	errs := make([]error, len(members))
	var done sync.WaitGroup
	room := make(chan struct{}, 4)
	for at, m := range members {
		room <- struct{}{}
		done.Go(func() {
			defer func() { <-room }()
			_, errs[at] = i.ask(ctx, http.MethodGet, m.ID, "")
		})
	}
	done.Wait()
	return errors.Join(errs...)
}

func readings(body []byte) error {
	var list struct{ Members []struct{ Reading float64 } }
	if err := json.Unmarshal(body, &list); err != nil {
		return err
	}
	if len(list.Members) < sensorCount {
		return fmt.Errorf("only %d sensors", len(list.Members))
	}
	return nil
}

func (i *ideal) ask(ctx context.Context, method, path, body string) ([]byte, error) {
	res, err := i.send(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err == nil && res.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s", method, path, res.Status)
	}
	return text, err
}

func (i *ideal) send(ctx context.Context, method, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, i.base+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if i.token != "" {
		req.Header.Set("X-Auth-Token", i.token)
	}
	return i.http.Do(req)
}
