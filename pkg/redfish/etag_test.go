package redfish_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// picky is a BMC that has its own idea of tags. It writes down what it is
// asked: "GET", or "PATCH" and the If-Match that came with it.
type picky struct {
	oem    string
	header func(n int) string // the ETag header of the n-th answer to a GET
	body   string
	takes  func(tag string, n int) int // the status of a PATCH
	log    []string
	gets   int
}

func (p *picky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/redfish/v1/":
		_, _ = io.WriteString(w, `{"Systems":{"@odata.id":"/s"},"Oem":{`+p.oem+`},"Links":{"Sessions":{"@odata.id":"`+sessionsURI+`"}}}`)
	case r.Method == http.MethodPost && r.URL.Path == sessionsURI:
		w.Header().Set("X-Auth-Token", "t")
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodGet:
		p.gets++
		p.log = append(p.log, "GET")
		if p.header != nil {
			w.Header().Set("ETag", p.header(p.gets))
		}
		_, _ = io.WriteString(w, p.body)
	case r.Method == http.MethodPost:
		p.log = append(p.log, "POST "+r.Header.Get("If-Match"))
	default:
		p.log = append(p.log, "PATCH "+r.Header.Get("If-Match"))
		w.WriteHeader(p.takes(r.Header.Get("If-Match"), p.gets))
	}
}

func constant(tag string) func(int) string { return func(int) string { return tag } }

func only(want string, missing int) func(string, int) int {
	return func(tag string, _ int) int {
		switch tag {
		case want:
			return http.StatusNoContent
		case "":
			return missing
		default:
			return http.StatusPreconditionFailed
		}
	}
}

func TestIfMatch(t *testing.T) {
	for _, c := range []struct {
		name string
		p    picky
		want string // what is asked for two changes, the first after a read of ours
		kind fault.Kind
	}{
		{
			name: "OpenBMC wants none",
			p:    picky{header: constant(`"A"`), takes: func(string, int) int { return 204 }},
			want: "GET, PATCH , PATCH ",
		},
		{
			name: "it asks for one, and gets it unasked from then on",
			p:    picky{header: constant(`"A"`), takes: only(`"A"`, 428)},
			want: `GET, PATCH , GET, PATCH "A", GET, PATCH "A"`,
		},
		{
			name: "XCC always gets one; the first needs no read of its own",
			p:    picky{oem: `"Lenovo":{}`, header: constant(`"A"`), takes: only(`"A"`, 428)},
			want: `GET, PATCH "A", GET, PATCH "A"`,
		},
		{
			name: "XCC whose tag changes between the read and the write",
			p: picky{oem: `"Lenovo":{}`, header: func(n int) string { return fmt.Sprintf(`"%d"`, n) }, takes: func(tag string, n int) int {
				if tag == fmt.Sprintf(`"%d"`, n) && n >= 2 {
					return 204
				}
				return 412
			}},
			want: `GET, PATCH "1", GET, PATCH "2", GET, PATCH "3"`,
		},
		{
			name: "a tag in the body alone",
			p:    picky{oem: `"Ami":{}`, body: `{"@odata.etag":"W/\"7\""}`, takes: only(`W/"7"`, 428)},
			want: `GET, PATCH W/"7", GET, PATCH W/"7"`,
		},
		{
			name: "a weak tag that is refused as such",
			p:    picky{oem: `"Ami":{}`, header: constant(`W/"7"`), takes: only(`"7"`, 428)},
			want: `GET, PATCH W/"7", GET, PATCH "7", GET, PATCH W/"7", GET, PATCH "7"`,
		},
		{
			name: "Supermicro quotes twice",
			p:    picky{oem: `"Supermicro":{}`, header: constant(`""7""`), takes: only(`"7"`, 428)},
			want: `GET, PATCH "7", GET, PATCH "7"`,
		},
		{
			name: "no tag is right: it ends",
			p:    picky{oem: `"Ami":{}`, header: constant(`W/"7"`), takes: func(string, int) int { return 412 }},
			want: `GET, PATCH W/"7", GET, PATCH "7", GET, PATCH *, GET`, kind: fault.Conflict,
		},
		{
			name: "a new tag each time, none is right: it ends",
			p:    picky{oem: `"Ami":{}`, header: func(n int) string { return fmt.Sprintf(`"%d"`, n) }, takes: func(string, int) int { return 412 }},
			want: `GET, PATCH "1", GET, PATCH "2", GET, PATCH "3", GET, PATCH "4"`, kind: fault.Conflict,
		},
		{
			name: "a refusal for another reason is none",
			p:    picky{header: constant(`"A"`), takes: func(string, int) int { return 400 }},
			want: "GET, PATCH ", kind: fault.BadInput,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.p.body == "" {
				c.p.body = "{}"
			}
			base, pin := serveTLS(t, &c.p)
			client := dialWith(t, base, pin, rootLogin())
			if _, err := client.Fetch(t.Context(), "/r"); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := client.Patch(t.Context(), "/r", map[string]string{"a": "b"})
				if c.kind == "" && err != nil || c.kind != "" && !fault.Is(err, c.kind) {
					t.Errorf("got %v; want %q", err, c.kind)
				}
				if err != nil {
					break
				}
			}
			if diff := cmp.Diff(c.want, strings.Join(c.p.log, ", ")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			// An action has no state of its own to match.
			c.p.log = nil
			if _, err := client.Post(t.Context(), "/r/Actions/x", nil); err != nil || c.p.log[0] != "POST " {
				t.Errorf("%v, %v", c.p.log, err)
			}
		})
	}
}

// The cache asks whether something changed, keeps within its bound, and shows a
// change at once.
func TestCache(t *testing.T) {
	b, _, _, c := start(t, bmcsim.Config{})
	k := redfish.NewCache(c, 64<<10)
	first, err := k.Fetch(t.Context(), systemURI)
	if err != nil {
		t.Fatal(err)
	}
	b.ResetStats()
	again, err := k.Fetch(t.Context(), systemURI)
	if err != nil || string(again) != string(first) {
		t.Errorf("%v, the same: %v", err, string(again) == string(first))
	}
	if r := b.Requests(); len(r) != 1 || r[0].Status != http.StatusNotModified {
		t.Errorf("asked %+v; want one 304", r)
	}
	if _, err = c.Patch(t.Context(), systemURI, map[string]string{"AssetTag": "new"}); err != nil {
		t.Fatal(err)
	}
	if again, err = k.Fetch(t.Context(), systemURI); err != nil || !strings.Contains(string(again), `"new"`) {
		t.Errorf("a change is not seen: %v", err)
	}
	small := redfish.NewCache(c, 10)
	b.ResetStats()
	for range 2 {
		if _, err := small.Fetch(t.Context(), systemURI); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range b.Requests() {
		if r.Status != http.StatusOK {
			t.Errorf("%d from a cache that has no room", r.Status)
		}
	}
	if _, err := k.Fetch(t.Context(), "/redfish/v1/nothing"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v; want not found", err)
	}
}

// TestCacheFullKeepsWhatItHas: a sweep over more than fits finds again what fits.
func TestCacheFullKeepsWhatItHas(t *testing.T) {
	b, _, _, c := start(t, bmcsim.Config{})
	first, err := c.Fetch(t.Context(), systemURI)
	if err != nil {
		t.Fatal(err)
	}
	k := redfish.NewCache(c, len(first)+10)
	for range 2 {
		b.ResetStats()
		for _, uri := range []string{systemURI, "/redfish/v1/Managers/bmc", "/redfish/v1/Chassis"} {
			if _, err := k.Fetch(t.Context(), uri); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r := b.Requests(); r[0].Status != http.StatusNotModified || r[1].Status != http.StatusOK {
		t.Errorf("asked %+v; want a 304 first and then none", r)
	}
}
