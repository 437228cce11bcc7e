package bmc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/scl"
)

// FirmwareUpdate is one update of one firmware.
type FirmwareUpdate struct {
	Firmware scl.Firmware // what and when; where the image comes from is the caller's
	Image    redfish.Image
	// Tell hears what is known so far, one call after the other; may be nil. With
	// Phase set it is a new phase, and the update goes on when Tell returns.
	Tell func(FirmwareNews)
}

// FirmwareNews is how far an update is.
type FirmwareNews struct {
	Before  string // the version that ran before, "" until it was read
	Doing   string // "sends the image", for people
	Percent int    // of that; -1: not known
	Phase   bool   // it is the first of what it is doing
}

// taskPolls is how many of a lane's polls lie between two looks at the task of an
// update. OpenBMC asks for 30 seconds; but a person waits, and a look costs it a
// millisecond.
const taskPolls = 3

// installed is a firmware as the BMC shows it.
type installed struct {
	link    redfish.Link
	version string
	host    bool           // it runs on the host: a restart of the BMC does not bring it
	all     []redfish.Link // every image of it, also those that do not run
	reset   string         // when the BMC was last restarted, as its clock had it
}

// FirmwareVersion is the version that runs of a firmware, by the id that
// (update-firmware ID …) has.
func (l *Lane) FirmwareVersion(ctx context.Context, id string) (string, error) {
	f, err := l.view(Action).installed(ctx, id)
	return f.version, err
}

// UpdateFirmware brings an image to the BMC and waits, as long as ctx lasts, until
// the version that runs can be read back: that is success, and nothing that the
// BMC says of its task. A BMC that restarts is waited for. Nothing is sent twice.
func (l *Lane) UpdateFirmware(ctx context.Context, u FirmwareUpdate) fleet.Result {
	begun := l.cfg.Now()
	f := &flash{Lane: l, update: u}
	o := f.run(ctx)
	r := fleet.Result{
		Node: l.cfg.Node, Before: o.before, After: o.after, Status: o.status, Error: o.note,
		Started: begun, Took: l.cfg.Now().Sub(begun), Attempts: 1,
	}
	if o.err != nil {
		r.Kind, r.Error, r.Hint = string(fault.KindOf(o.err)), o.err.Error(), fault.HintOf(o.err)
	}
	return r
}

// flash is one update under way.
type flash struct {
	*Lane
	update FirmwareUpdate
	before installed
	sent   atomic.Int64
	// ends is what is known of the BMC's own end of it, told its account of it.
	ends redfish.TaskEnd
	told string
	lost bool // it has forgotten its task
}

func (f *flash) tell(doing string, percent int, phase bool) {
	if f.update.Tell != nil {
		f.update.Tell(FirmwareNews{Before: f.before.version, Doing: doing, Percent: percent, Phase: phase})
	}
}

func (f *flash) run(ctx context.Context) outcome {
	var err error
	if f.before, err = f.view(Action).installed(ctx, f.update.Firmware.ID); err != nil {
		return failed(err)
	}
	o := outcome{before: f.before.version}
	if v := f.update.Firmware.Version; v != "" && v == f.before.version {
		o.status, o.after = fleet.Unchanged, v
		return o
	}
	upload, err := f.upload(ctx)
	if err != nil {
		return o.with(err)
	}
	f.tell("sends the image", 0, true)
	reply, err := f.push(ctx, upload)
	switch {
	case err == nil:
		f.await(ctx, reply)
	case !redfish.Uncertain(err):
		return f.refused(o, err)
	case f.sent.Load() < f.update.Image.Size:
		return f.cutShort(ctx, o, err)
	default:
		f.told = "nobody knows whether the image arrived: " + err.Error()
	}
	return f.verify(ctx, o)
}

// refused is an update that the BMC did not begin.
func (f *flash) refused(o outcome, err error) outcome {
	o.after = o.before
	return o.with(err)
}

// upload is the request that the BMC takes, if it takes one of this kind.
func (f *flash) upload(ctx context.Context) (redfish.Upload, error) {
	const op = "update the firmware"
	s, err := f.UpdateService(ctx)
	if err != nil {
		return redfish.Upload{}, err
	}
	u := redfish.Upload{URI: s.URI, Raw: s.Raw, Image: f.update.Image, ApplyTime: "Immediate", Progress: f.progress()}
	if f.update.Firmware.OnReset {
		u.ApplyTime = "OnReset"
	}
	if f.client.Profile().UpdateTarget {
		u.Targets = []string{string(f.before.link)}
	}
	switch {
	case s.Max > 0 && u.Image.Size > s.Max:
		return u, fault.New(fault.BadInput, op, fmt.Sprintf("the image has %s, and this BMC takes %s at most", mebibytes(u.Image.Size), mebibytes(s.Max)))
	case s.Raw && f.update.Firmware.OnReset:
		return u, fault.New(fault.Unsupported, op, "this BMC can't be told to wait for a reset").WithHint("leave (apply on-reset) out")
	}
	return u, nil
}

// progress tells each tenth of the image.
func (f *flash) progress() func(sent int64) {
	next := int64(10)
	return func(sent int64) {
		f.sent.Store(sent)
		if percent := sent * 100 / f.update.Image.Size; percent >= next {
			next = percent - percent%10 + 10
			f.tell("sends the image", int(percent), false)
		}
	}
}

// await waits for the task that the upload began. Whatever comes of it, the version
// decides.
func (f *flash) await(ctx context.Context, reply *redfish.Reply) {
	task, begun := reply.TaskOf()
	if !begun {
		f.ends = redfish.TaskDone
		return
	}
	const doing = "takes the image in"
	f.tell(doing, -1, true)
	deadline := time.Hour
	if d, bounded := ctx.Deadline(); bounded {
		deadline = max(time.Until(d)-f.cfg.Settle, time.Until(d)/2) // what is left is for the version
	}
	r := redfish.WaitTask(ctx, asker{f.Lane, Action}, task, redfish.Watch{
		Deadline: deadline, Most: taskPolls * f.cfg.Poll, Jitter: f.cfg.Jitter,
		Progress: func(r redfish.TaskReport) { f.tell(doing, r.Percent, false) },
	})
	f.ends, f.told, f.lost = r.End, taskSays(r), r.Lost
}

// taskSays is what the BMC told of its task, without the messages about its progress.
func taskSays(r redfish.TaskReport) string {
	text := "its task is " + r.End.String()
	if r.Why != "" {
		text += ": " + r.Why
	}
	if n := len(r.Messages); n > 0 && r.End == redfish.TaskFailed {
		text += ": " + strings.TrimSuffix(r.Messages[n-1].Text, ".")
	}
	if r.End == redfish.TaskUnknown && r.Percent >= 0 {
		text += fmt.Sprintf(", last seen at %d %%", r.Percent)
	}
	return text
}

// cutShort is an update of which the BMC can't have the whole image.
func (f *flash) cutShort(ctx context.Context, o outcome, err error) outcome {
	text := fmt.Sprintf("the connection broke when %s of %s were sent: %s", mebibytes(f.sent.Load()), mebibytes(f.update.Image.Size), err)
	f.tell("waits for the BMC", -1, true)
	until := f.cfg.Now().Add(f.cfg.Settle)
	for {
		now, lookErr := f.view(Action).installed(ctx, f.update.Firmware.ID)
		switch {
		case lookErr == nil:
			o.after = now.version
			return o.with(fault.New(fault.Unavailable, "send the image", text+"; "+runs(o)).
				WithHint("nothing was installed; apply the script again"))
		case !f.cfg.Now().Before(until) || !f.pause(ctx):
			return o.with(fault.New(fault.Unavailable, "send the image", fmt.Sprintf("%s; the BMC has not answered since: %s", text, lookErr)).
				WithHint("the image did not arrive whole; look at the BMC before it is sent again"))
		}
	}
}

func runs(o outcome) string {
	if o.after == o.before {
		return o.after + " runs, as before"
	}
	return o.after + " runs"
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// verify looks at the version until it tells how the update ended.
func (f *flash) verify(ctx context.Context, o outcome) outcome {
	f.tell("reads the version back", -1, true)
	until := f.cfg.Now().Add(f.cfg.Settle) // for a sign of a restart
	away := false
	for {
		now, err := f.view(Action).installed(ctx, f.update.Firmware.ID)
		if err == nil {
			o.after = now.version
			restarted := away || f.lost || now.reset != f.before.reset
			late := !f.cfg.Now().Before(until)
			if end, over := f.judge(ctx, o, now, restarted, late); over {
				return end
			}
		} else if !away {
			away = true
			f.tell("waits for the BMC", -1, true)
		}
		if !f.pause(ctx) {
			return f.unread(o, err)
		}
	}
}

// judge is how the update ended, if what was read tells.
func (f *flash) judge(ctx context.Context, o outcome, now installed, restarted, late bool) (outcome, bool) {
	want := f.update.Firmware.Version
	switch {
	case want == "" && now.version != f.before.version, want != "" && now.version == want:
		o.status = fleet.Confirmed
		return o, true
	case f.ends == redfish.TaskFailed:
		return f.ended(o, "the BMC did not install it: "+f.told), true
	}
	if next := f.next(ctx, now); next != "" && (f.waits(now) || late) {
		return f.staged(o, next, now), true
	}
	switch {
	case !restarted && !late:
		return o, false // it may still restart, and then run another version
	case want != "":
		return f.ended(o, "it is not installed"+f.because()), true
	}
	o.status, o.err = fleet.Unknown, fault.New(fault.Conflict, "read back the version",
		runs(o)+f.because()+"; the image may hold that same version, or was not taken").
		WithHint(`say which version it shall be, as in (version "2.19.0")`)
	return o, true
}

// ended is an update that did not come about.
func (f *flash) ended(o outcome, why string) outcome {
	return o.with(fault.New(fault.Conflict, "update the firmware", why+"; "+runs(o)).
		WithHint("read the BMC's event log for its own account"))
}

func (f *flash) because() string {
	if f.told == "" {
		return ""
	}
	return ", and " + f.told
}

// waits reports whether the image is not meant to run before something is reset.
func (f *flash) waits(now installed) bool {
	return f.ends == redfish.TaskDone && (f.update.Firmware.OnReset || now.host)
}

// next is the version of an image that was not there before and does not run.
func (f *flash) next(ctx context.Context, now installed) string {
	for _, link := range now.all {
		var m member
		if slices.Contains(f.before.all, link) || link == now.link || redfish.Get(ctx, f.view(Action), link, &m) != nil {
			continue
		}
		if want := f.update.Firmware.Version; want == "" || want == string(m.Version) {
			return string(m.Version)
		}
	}
	return ""
}

// staged is an update whose image is there, read back, and does not run yet.
func (f *flash) staged(o outcome, next string, now installed) outcome {
	what := "the BMC"
	if now.host {
		what = "the server"
	}
	o.after = fmt.Sprintf("%s runs, %s from the next reset of %s on", now.version, next, what)
	switch {
	case f.update.Firmware.OnReset && f.ends == redfish.TaskDone:
		o.status = fleet.Confirmed
	case f.ends == redfish.TaskDone:
		o.status, o.note = fleet.Attempted, "the image is there and does not run yet; "+what+" has to be restarted"
	default:
		o.status, o.err = fleet.Unknown, fault.New(fault.Conflict, "update the firmware", "the image is there and does not run"+f.because())
	}
	return o
}

// unread is an update after which the version could not be read in time.
func (f *flash) unread(o outcome, last error) outcome {
	o.status = fleet.Unknown
	text := "there was no time left to see whether it came about"
	if last != nil {
		text = "the BMC has not answered since: " + last.Error()
	}
	o.err = fault.New(fault.Timeout, "read back the version", text+f.because()).
		WithHint("look at the version once it answers; a larger (timeout …) waits longer")
	return o
}

// installed finds the firmware that id names, and of several images of it the one
// that runs.
func (v *view) installed(ctx context.Context, id string) (installed, error) {
	links, _, err := v.firmwareLinks(ctx)
	if err != nil {
		return installed{}, orAbsent(err, "firmware inventory")
	}
	f := installed{}
	if f.all, err = v.firmwareOf(ctx, links, id); err != nil {
		return f, err
	}
	var a active
	if f.link, a, err = v.runningImage(ctx, f.all); err != nil {
		return f, err
	}
	f.reset, f.host = a.reset, f.link == a.host && f.link != a.bmc
	var m member
	if err = redfish.Get(ctx, v, f.link, &m); err != nil {
		return f, err
	}
	f.version = string(m.Version)
	if f.version == "" {
		return f, fault.New(fault.Unsupported, "read the version", fmt.Sprintf("this BMC reports no version of %s, so that nobody could tell whether an update came about", lastSegment(f.link)))
	}
	return f, nil
}

// firmwareOf are the images that id names: by their id, by their id without the
// hash that OpenBMC appends, or by their name.
func (v *view) firmwareOf(ctx context.Context, links []redfish.Link, id string) (found []redfish.Link, err error) {
	for _, m := range links {
		if at := lastSegment(m); same(at, id) || strings.HasPrefix(strings.ToLower(at), strings.ToLower(id)+"_") {
			found = append(found, m)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	for _, m := range links {
		var f member
		if err = redfish.Get(ctx, v, m, &f); err != nil && !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		if same(string(f.Name), id) {
			found = append(found, m)
		}
	}
	if len(found) == 0 {
		return nil, fault.New(fault.NotFound, "find the firmware", fmt.Sprintf("this BMC shows no firmware %q", id)).
			WithHint("it shows " + ids(links))
	}
	return found, nil
}

func ids(links []redfish.Link) string {
	names := make([]string, 0, 8)
	for _, m := range links[:min(len(links), 8)] {
		names = append(names, lastSegment(m))
	}
	if more := len(links) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// active is what runs now, "" where the BMC does not say.
type active struct {
	bmc, host redfish.Link // images
	reset     string       // when the BMC was last restarted
}

// runningImage is the image of several that runs.
func (v *view) runningImage(ctx context.Context, all []redfish.Link) (redfish.Link, active, error) {
	a, err := v.active(ctx)
	if err != nil {
		return "", a, err
	}
	isActive := func(m redfish.Link) bool { return m == a.bmc || m == a.host }
	isInstalled := func(m redfish.Link) bool { return strings.HasPrefix(lastSegment(m), "Installed-") } // iDRACs list earlier ones too
	for _, fits := range []func(redfish.Link) bool{isActive, isInstalled, func(redfish.Link) bool { return len(all) == 1 }} {
		if i := slices.IndexFunc(all, fits); i >= 0 {
			return all[i], a, nil
		}
	}
	return "", a, fault.New(fault.BadInput, "find the firmware", "it may be any of "+ids(all)).WithHint("name one of them")
}

func (v *view) active(ctx context.Context) (a active, err error) {
	p, err := v.places(ctx)
	if err != nil {
		return a, err
	}
	type resource struct {
		LastReset redfish.Text `json:"LastResetTime"`
		Bios      redfish.Link
		Links     struct {
			Image redfish.Link `json:"ActiveSoftwareImage"`
		}
	}
	var m, s, bios resource
	bmc, err := v.managerLink(ctx)
	if err == nil && bmc != "" {
		err = redfish.Get(ctx, v, bmc, &m)
	}
	if err != nil {
		return a, err
	}
	if err = redfish.Get(ctx, v, p.system, &s); err != nil {
		return a, err
	}
	if s.Bios != "" {
		if err = redfish.Get(ctx, v, s.Bios, &bios); err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Unsupported) {
			return a, err
		}
	}
	return active{bmc: m.Links.Image, host: bios.Links.Image, reset: string(m.LastReset)}, nil
}
