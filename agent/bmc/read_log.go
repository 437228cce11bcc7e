package bmc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// firmware finds the entry of the inventory that the reference names, and of
// several images of it the one that runs.
func firmware(value func(member) fleet.Value) source {
	return func(ctx context.Context, v *view, ref scl.Ref) (sample, error) {
		what := fmt.Sprintf("firmware %q", ref.Param)
		members, uri, err := v.firmwareLinks(ctx)
		if err != nil {
			return sample{uri: uri}, orAbsent(err, what)
		}
		all, err := v.firmwareOf(ctx, members, ref.Param)
		if fault.Is(err, fault.NotFound) {
			err = absent(what)
		}
		if err != nil {
			return sample{uri: uri}, err
		}
		link := all[0]
		if len(all) > 1 {
			if link, _, err = v.runningImage(ctx, all); err != nil {
				return sample{uri: uri}, err
			}
		}
		var f member
		err = redfish.Get(ctx, v, link, &f)
		return one(lastSegment(link), value(f), link), err
	}
}

func (v *view) firmwareLinks(ctx context.Context) ([]redfish.Link, redfish.Link, error) {
	p, err := v.places(ctx)
	if err != nil {
		return nil, "", err
	}
	var service struct{ FirmwareInventory redfish.Link }
	if p.root.UpdateService == "" {
		return nil, "", absent("firmware inventory")
	}
	if err = redfish.Get(ctx, v, p.root.UpdateService, &service); err != nil {
		return nil, p.root.UpdateService, err
	}
	members, err := redfish.Members(ctx, v, service.FirmwareInventory, maxParts)
	return members, service.FirmwareInventory, err
}

func updateable(f member) fleet.Value {
	if !f.Updateable.Set {
		return fleet.NoValue("this BMC does not report whether the firmware can be updated")
	}
	return fleet.Bool(f.Updateable.Value)
}

// logEntry is what is read of a LogEntry.
type logEntry struct {
	Created  redfish.Text
	Severity redfish.Text
	Message  redfish.Text
}

// eventLog reads the system's log of events.
func (v *view) eventLog(ctx context.Context) ([]logEntry, redfish.Link, error) {
	service, err := v.logService(ctx)
	if err != nil {
		return nil, "", err
	}
	raw, err := redfish.Entries(ctx, v, service.Entries, maxEntries)
	if err != nil {
		v.lane.forget(err)
		return nil, service.Entries, err
	}
	entries := make([]logEntry, len(raw))
	for i, r := range raw {
		_ = redfish.Decode(r, &entries[i]) // it came inside valid JSON
	}
	return entries, service.Entries, nil
}

// logService is what is read of a LogService.
type logService struct {
	uri     redfish.Link
	Entries redfish.Link
	Actions struct {
		Clear struct {
			Target string `json:"target"`
		} `json:"#LogService.ClearLog"`
	}
}

// logService finds the log of events: the system's, by the usual ids, else the
// first one, else the manager's. The lane remembers which it is.
func (v *view) logService(ctx context.Context) (*logService, error) {
	l := v.lane
	l.mu.Lock()
	known := l.log
	l.mu.Unlock()
	if known != nil {
		return known, nil
	}
	collections, err := v.logCollections(ctx)
	if err != nil {
		return nil, err
	}
	for _, collection := range collections {
		members, err := redfish.Members(ctx, v, collection, maxParts)
		if err != nil {
			return nil, orAbsent(err, "event log")
		}
		if len(members) == 0 {
			continue
		}
		found := &logService{uri: usualLog(members)}
		if err := redfish.Get(ctx, v, found.uri, found); err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.log = found
		return found, nil
	}
	return nil, absent("event log")
}

func usualLog(members []redfish.Link) redfish.Link {
	for _, id := range []string{"EventLog", "SEL", "Log1"} {
		for _, m := range members {
			if strings.EqualFold(lastSegment(m), id) {
				return m
			}
		}
	}
	return members[0]
}

// logCollections are the LogServices of the system, or of its manager.
func (v *view) logCollections(ctx context.Context) ([]redfish.Link, error) {
	s, _, err := v.system(ctx)
	if err != nil {
		return nil, err
	}
	if s.LogServices != "" {
		return []redfish.Link{s.LogServices}, nil
	}
	var m struct{ LogServices redfish.Link }
	uri, err := v.managerLink(ctx)
	if err == nil && uri != "" {
		err = redfish.Get(ctx, v, uri, &m)
	}
	return links([]redfish.Link{m.LogServices}), err
}

func logCritical(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	entries, uri, err := v.eventLog(ctx)
	n := 0
	for _, e := range entries {
		if e.Severity == "Critical" {
			n++
		}
	}
	return one("entries", fleet.Number(float64(n), fleet.NoUnit), uri), err
}

// logLast is the text of the newest entry. BMCs sort either way, and their
// clocks may stand at 1970, so that the time decides and order only a tie.
func logLast(ctx context.Context, v *view, _ scl.Ref) (sample, error) {
	entries, uri, err := v.eventLog(ctx)
	if err == nil && len(entries) == 0 {
		err = errors.New("the event log is empty")
	}
	var last logEntry
	for _, e := range entries {
		if last.Message == "" || e.Created > last.Created {
			last = e
		}
	}
	return one(string(last.Created), textOf(last.Message, "text of the entry"), uri), err
}
