package bmcsim_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// recording is one exchange with a real bmcweb.
type recording struct {
	name    string
	Request struct {
		Method  string
		Path    string
		Headers map[string]string
		Body    json.RawMessage
	}
	Response struct {
		Status   int
		Headers  [][2]string
		Body     any
		BodyText string `json:"body_text"`
	}
}

// replayed are the groups of recordings that this simulator is about.
var replayed = regexp.MustCompile(`^(A_protocol|B_session|C_accounts|C_priv_\w+|D_systems|E_managers|E_journal|F_chassis|J_misc|L_default)_\d`)

// apart are recordings of what the simulator does not have, or that show the
// recorded server's own inventory. They are not sent at all.
var apart = regexp.MustCompile(strings.Join([]string{
	`Accept_html`, `Accept_cbor`, `Accept_Encoding`, `_legacy_`, `_cookie_`, // other encodings, browser logins
	`Registries_`, `JsonSchemas_`, `top_skip_on_schemas`, // registry and schema files
	`GenerateCSR`, `Truststore`, `subscribe`, `_unsub`, // certificates and events are later work
	`dump`, `Dump`, `task_monitor`, `ResetToDefaults`, `TelemetryService`, `Fabrics`, `Cables`,
	`PCIeDevices_nic0`, `PCIeDevice_nic0`, `SubProcessors`, `motherboard`, `PostCodes`, `HostLogger`, // hardware it does not have
	`Journal_Entr`, `EventLog_Entry`, `EventLog_entr`, `_Entries_`, `L_default_00[1-6]`, `L_default_Entry`, // what they had logged
	`31MiB`, `big_body`, `while_many_idle`, `_SSE`, `EventLog_Entries`,
}, "|"))

// TestTranscripts replays recorded exchanges in the order in which they
// happened and compares. It runs if CHIBA_TRANSCRIPTS names the directory.
func TestTranscripts(t *testing.T) {
	dir := os.Getenv("CHIBA_TRANSCRIPTS")
	if dir == "" {
		t.Skip("CHIBA_TRANSCRIPTS is not set")
	}
	_, c := start(t, bmcsim.Config{
		PowerOn: true, Transition: time.Millisecond, Serial: "SYS0001",
		Drives: []bmcsim.Drive{{ID: "drive0", Bytes: 1 << 40, Media: "SSD"}},
	})
	r := &replayer{caller: c, tokens: map[string]string{}, ids: map[string]string{}}
	recordings, equal := load(t, dir), 0
	for _, rec := range recordings {
		diff := r.replay(rec)
		if diff == "" {
			equal++
			continue
		}
		t.Logf("%s: %s %s: %s", rec.name, rec.Request.Method, rec.Request.Path, diff)
	}
	rate := 100 * float64(equal) / float64(max(len(recordings), 1))
	t.Logf("%d of %d exchanges are equal (%.1f %%)", equal, len(recordings), rate)
	if rate < 90 {
		t.Errorf("fewer than 90 %% of the recorded exchanges are equal")
	}
}

// load reads the recordings in the order of their dates.
func load(t *testing.T, dir string) []recording {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []recording
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if !replayed.MatchString(name) || apart.MatchString(name) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		rec := recording{name: name}
		if err := json.Unmarshal(text, &rec); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list = append(list, rec)
	}
	// In the order of their names, but for what the two roles may do: that was
	// tried right after their accounts were made.
	slices.SortStableFunc(list, func(a, b recording) int { return strings.Compare(a.order(), b.order()) })
	return list
}

func (rec recording) order() string {
	if strings.HasPrefix(rec.name, "C_priv_") {
		return "C_accounts_018_" + rec.name
	}
	return rec.name
}

func (rec recording) header() map[string]string {
	h := map[string]string{}
	for _, kv := range rec.Response.Headers {
		h[kv[0]] = kv[1]
	}
	return h
}

// replayer knows our names for what the recorded server named at random.
type replayer struct {
	*caller
	tokens map[string]string
	ids    map[string]string
}

func (r *replayer) replay(rec recording) string {
	got, err := r.send(rec)
	if err != nil {
		return err.Error()
	}
	want := rec.header()
	if token := want["X-Auth-Token"]; token != "" {
		r.tokens[token] = got.header.Get("X-Auth-Token")
		r.ids[filepath.Base(want["Location"])] = filepath.Base(got.header.Get("Location"))
	}
	if tag := want["ETag"]; tag != "" {
		r.ids[tag] = got.header.Get("ETag")
	}
	if got.status != rec.Response.Status {
		return fmt.Sprintf("status %d, recorded %d", got.status, rec.Response.Status)
	}
	if diff := cmp.Diff(comparable(want), comparable(flat(got.header))); diff != "" {
		return "headers differ:\n" + diff
	}
	return r.compareBody(rec, got)
}

func (r *replayer) send(rec recording) (answer, error) {
	path := rec.Request.Path
	for theirs, ours := range r.ids {
		path = strings.ReplaceAll(path, theirs, ours)
	}
	path = strings.ReplaceAll(path, "temperature_ambient", "temperature_inlet")
	body := string(rec.Request.Body)
	var text string
	if json.Unmarshal(rec.Request.Body, &text) == nil {
		body = text // a body that was no JSON object is kept as a text
	}
	req, err := http.NewRequestWithContext(r.t.Context(), rec.Request.Method, r.base+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for name, value := range rec.Request.Headers {
		if name == "X-Auth-Token" || strings.HasPrefix(value, "Token ") {
			value = r.ourToken(rec, value)
		}
		if name == "If-None-Match" && !strings.HasPrefix(value, "W/") && r.ids[value] != "" {
			value = r.ids[value]
		}
		req.Header.Set(name, value)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	a := answer{status: res.StatusCode, header: res.Header, text: string(out)}
	_ = json.Unmarshal(out, &a.body)
	return a, err
}

// ourToken stands for a recorded token. Those whose login was not recorded get
// a session of their own.
func (r *replayer) ourToken(rec recording, recorded string) string {
	scheme, token, hasScheme := strings.Cut(recorded, " ")
	if !hasScheme {
		scheme, token = "", recorded
	}
	if strings.HasSuffix(rec.name, "_bad_token") || strings.HasSuffix(rec.name, "_bad_bearer") {
		return recorded
	}
	if r.tokens[token] == "" {
		user, password := "root", bmcsim.DefaultPassword
		for _, name := range []string{"tstop", "tstro"} {
			if strings.HasPrefix(rec.name, "C_priv_"+name) {
				user, password = name, "Test-Pass-2026"
			}
		}
		login := r.do(http.MethodPost, sessions, `{"UserName":"`+user+`","Password":"`+password+`"}`)
		r.tokens[token] = login.header.Get("X-Auth-Token")
	}
	return strings.TrimSpace(scheme + " " + r.tokens[token])
}

// flat is a header as the recordings have it, in the usual spelling.
func flat(h http.Header) map[string]string {
	out := map[string]string{}
	for name := range h {
		out[name] = h.Get(name)
	}
	return out
}

// comparable drops what can't be equal: times, lengths and random values; of
// tags and tokens it is compared that they are there.
func comparable(h map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range h {
		name = http.CanonicalHeaderKey(name)
		switch name {
		case "Date", "Content-Length":
			continue
		case "Etag", "X-Auth-Token":
			value = "(there)"
		case "Location":
			value = value[:strings.LastIndexByte(value, '/')]
		}
		out[name] = value
	}
	return out
}

// compareBody wants messages to be equal, and resources to have the same
// properties of the same types.
func (r *replayer) compareBody(rec recording, got answer) string {
	want, isObj := rec.Response.Body.(map[string]any)
	if !isObj {
		if strings.Contains(rec.name, "metadata") {
			return ""
		}
		return cmp.Diff(rec.Response.BodyText, got.text)
	}
	if want["error"] != nil || want["@Message.ExtendedInfo"] != nil {
		return cmp.Diff(want, got.body)
	}
	return cmp.Diff(shape("", trimmed(want, got.body)), shape("", trimmed(got.body, want)))
}

// trimmed empties the arrays of v that are empty in the other value: what a
// server has none of has no shape.
func trimmed(v, other any) any {
	switch v := v.(type) {
	case map[string]any:
		o, _ := other.(map[string]any)
		out := map[string]any{}
		for key := range v {
			out[key] = trimmed(v[key], o[key])
		}
		return out
	case []any:
		if o, isList := other.([]any); isList && len(o) == 0 {
			return o
		}
	}
	return v
}

// shape is the list of properties with their types. Of an array the first
// item counts, and our own number of sensors or drives is as good as theirs.
func shape(path string, v any) []string {
	switch v := v.(type) {
	case map[string]any:
		var list []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			list = append(list, shape(path+"/"+key, v[key])...)
		}
		if v["@odata.type"] != nil {
			list = append(list, fmt.Sprintf("%s is %v", path, v["@odata.type"]))
		}
		return list
	case []any:
		if len(v) == 0 {
			return []string{path + "[]"}
		}
		return append(shape(path+"[]", v[0]), path+"[]")
	default:
		return []string{fmt.Sprintf("%s %T", path, v)}
	}
}
