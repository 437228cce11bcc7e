package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chiba-mesh/chiba/agent/spool"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/obs"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
	"github.com/chiba-mesh/chiba/pkg/wire"
	"github.com/chiba-mesh/chiba/pkg/wire/pb"
	"github.com/chiba-mesh/chiba/trust/level"
)

const (
	defaultSurvey = 24 * time.Hour
	leastSurvey   = 10 * time.Minute
	surveyTimeout = 5 * time.Minute // a BMC with many GPUs takes three
	surveysAtOnce = 4               // of the whole rack, apart from those that a person asks for
	// surveyRest is what the start is given before the first survey, and what a
	// BMC is given after a failure, and a server after it was switched on: it
	// tells of new parts when it has found them.
	surveyRest = 5 * time.Minute
	// surveySpread is over how long the first surveys of a rack are spread.
	surveySpread = 10 * time.Minute
	// maxInventory bounds what is read back of the disk, of one node.
	maxInventory = 16 << 20
)

// survey takes a node's inventory now and then until ctx ends: some minutes after
// the start, at another moment for each node, then at the interval that is
// configured, and when somebody may have had the server open.
func (a *Agent) survey(ctx context.Context, n *node) error {
	first := surveyRest + time.Duration(a.jitter()*float64(min(surveySpread, a.cfg.surveyEvery())))
	timer := time.NewTimer(first)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.opened:
			timer.Reset(surveyRest)
			continue
		case <-timer.C:
		}
		next := a.cfg.surveyEvery()
		if err := a.surveyInTurn(ctx, n); err != nil && ctx.Err() == nil {
			next = min(next, leastSurvey)
			a.log.Info("no inventory", obs.Node, string(n.entry.Name), obs.Err, err)
		}
		timer.Reset(next)
	}
}

func (a *Agent) surveyInTurn(ctx context.Context, n *node) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case a.surveying <- struct{}{}:
	}
	defer func() { <-a.surveying }()
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	_, err := a.takeInventory(ctx, n)
	return err
}

// takeInventory reads the inventory of a node, keeps it, and reports what is
// other than before.
func (a *Agent) takeInventory(ctx context.Context, n *node) (inventory.Doc, error) {
	l, err := a.way(n, level.Look)
	if err != nil {
		return inventory.Doc{}, err
	}
	select { // two at once would report a change twice
	case <-ctx.Done():
		return inventory.Doc{}, fault.Wrap(fault.KindOf(ctx.Err()), "wait for the survey that is going on", ctx.Err())
	case n.surveyed <- struct{}{}:
	}
	defer func() { <-n.surveyed }()
	now, err := l.Inventory(ctx)
	if err != nil {
		return inventory.Doc{}, err
	}
	at := a.now()
	if err := a.keepInventory(n, now, at); err != nil {
		return inventory.Doc{}, err
	}
	n.learn(now)
	a.settle(n)
	doc := now.Doc()
	doc.At = at
	return doc, nil
}

// keepInventory writes the inventory, and what is other than in the one before, in
// one transaction: a change is reported once, even if the process ends here. An
// inventory that can't be read any more is replaced.
func (a *Agent) keepInventory(n *node, now *inventory.Inventory, at time.Time) error {
	name, base := n.entry.Name, now
	var news []inventory.Change
	before, err := a.keptInventory(name)
	switch {
	case err == nil:
		if old, unread := before.Inventory(); unread == nil {
			news, base = inventory.News(inventory.Diff(old, now)), inventory.Keep(old, now)
		}
	case !fault.Is(err, fault.NotFound):
		a.log.Error("the inventory on disk is replaced", obs.Node, string(name), obs.Err, err)
	}
	doc := base.Doc()
	doc.At = at
	packed, err := pack(doc)
	if err != nil {
		return err
	}
	return a.spool.UpdateSoon(func(tx *spool.Tx) error {
		tx.Put(spool.Inventories, string(name), packed)
		if len(news) > 0 {
			told := hardwareNews(name, at, news)
			tx.Append(at, &pb.Record{Body: &pb.Record_Hardware{Hardware: wire.ToHardwareNews(told)}})
		}
		return nil
	})
}

func hardwareNews(node fleet.NodeName, at time.Time, changes []inventory.Change) fleet.HardwareNews {
	text := func(v fleet.Value) string {
		if !v.Known() {
			return ""
		}
		return v.String()
	}
	news := fleet.HardwareNews{Node: node, At: at, More: max(0, len(changes)-fleet.MaxHardwareChanges)}
	for _, c := range changes[:len(changes)-news.More] {
		news.Changes = append(news.Changes, fleet.HardwareChange{
			What: string(c.What), Kind: c.Kind, Path: c.Path, Before: text(c.Before), After: text(c.After),
		})
	}
	return news
}

// keptInventory is the last inventory that was kept of a node.
func (a *Agent) keptInventory(name fleet.NodeName) (doc inventory.Doc, err error) {
	var packed []byte
	err = a.spool.View(func(tx *spool.Tx) error {
		packed = bytes.Clone(tx.Get(spool.Inventories, string(name)))
		return nil
	})
	switch {
	case err != nil:
		return doc, err
	case packed == nil:
		return doc, fault.New(fault.NotFound, "read inventory", "there was none yet")
	}
	return unpack(packed)
}

func pack(doc inventory.Doc) ([]byte, error) {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	err := errors.Join(json.NewEncoder(zip).Encode(doc), zip.Close())
	return out.Bytes(), fault.Wrap(fault.Garbage, "write inventory", err)
}

func unpack(packed []byte) (doc inventory.Doc, err error) {
	zip, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return doc, fault.Wrap(fault.Garbage, "read inventory", err)
	}
	text, err := io.ReadAll(io.LimitReader(zip, maxInventory))
	if err != nil {
		return doc, fault.Wrap(fault.Garbage, "read inventory", err)
	}
	return inventory.ReadDoc(text)
}

// inventory answers (dump inventory …): what the BMC tells now or, if it does not
// answer, what it told last, which then says so.
func (a *Agent) inventory(ctx context.Context, n *node) fleet.Result {
	doc, err := a.takeInventory(ctx, n)
	if err != nil {
		last, none := a.keptInventory(n.entry.Name)
		if none != nil {
			return failure(err)
		}
		doc, doc.Stale = last, err.Error()
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return failure(fault.Wrap(fault.Garbage, "write inventory", err))
	}
	if len(body) > fleet.MaxBody {
		return failure(fault.New(fault.TooLarge, "inventory", fmt.Sprintf("it has %d bytes, the limit is %d", len(body), fleet.MaxBody)).
			WithHint("show what you need: chiba show NODE ELEMENT"))
	}
	return fleet.Result{Status: fleet.Confirmed, Body: body}
}

// learn takes into the summary what only an inventory tells.
func (n *node) learn(inv *inventory.Inventory) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range slices.Backward(inv.Managers) { // the first counts
		if kind, known := m.Kind.Text(); !known || kind == "BMC" {
			note(&n.summary.Firmware, m.Firmware)
		}
	}
	for _, s := range slices.Backward(inv.Systems) {
		note(&n.summary.BIOS, s.BIOS)
	}
	for _, c := range inv.Chassis { // where the system says nothing of itself
		if n.summary.Model == "" {
			note(&n.summary.Model, c.Model)
		}
		if n.summary.Serial == "" {
			note(&n.summary.Serial, c.Serial)
		}
	}
}

func note(field *string, f inventory.Fact) {
	if f.Known() {
		*field = f.String()
	}
}

// remember gives the nodes what an earlier process learned of them.
func (a *Agent) remember() error {
	return a.spool.View(func(tx *spool.Tx) error {
		for name, raw := range tx.All(spool.Nodes, "") {
			msg := &pb.Node{}
			if err := proto.Unmarshal(raw, msg); err != nil {
				return fault.Wrap(fault.Garbage, "read the summary of "+name, err)
			}
			if n := a.rack.named(fleet.NodeName(name)); n != nil {
				n.summary.Firmware, n.summary.BIOS = msg.GetFirmware(), msg.GetBios()
			}
		}
		return nil
	})
}
