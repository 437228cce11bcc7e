package redfish_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/fleet"
	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
)

// tree is a Getter over documents.
type tree map[string]string

func (t tree) Fetch(_ context.Context, uri string) ([]byte, error) {
	if body, found := t[uri]; found {
		return []byte(body), nil
	}
	return nil, fault.New(fault.NotFound, "read "+uri, "the BMC answered 404")
}

func uris(t *redfish.Tree) (all []string) {
	for _, r := range t.Resources {
		all = append(all, r.URI)
	}
	return all
}

func TestCrawlFollowsLinks(t *testing.T) {
	doc := tree{
		"/redfish/v1/": `{"@odata.id":"/redfish/v1","Systems":{"@odata.id":"/redfish/v1/Systems"},"Registries":{"@odata.id":"/redfish/v1/Registries"},
			"Out":{"@odata.id":"https://elsewhere.example/redfish/v1"},"Up":{"@odata.id":"/etc/passwd"}}`,
		"/redfish/v1/Systems": `{"Members":[{"@odata.id":"/redfish/v1/Systems/1"},{"@odata.id":"/redfish/v1/Systems/1#/Boot"},{"@odata.id":"/redfish/v1/Systems/2"}],
			"Members@odata.nextLink":"/redfish/v1/Systems?$skip=2"}`,
		"/redfish/v1/Systems?$skip=2": `{"Members":[{"@odata.id":"/redfish/v1/Systems/"}]}`,
		"/redfish/v1/Systems/1":       `{"Actions":{"#R":{"@Redfish.ActionInfo":"/redfish/v1/Systems/1/Info"}},"PowerState":"On"}`,
		"/redfish/v1/Systems/1/Info":  `{}`,
		"/redfish/v1/Registries":      `{}`,
	}
	got, err := redfish.Crawl(t.Context(), doc, redfish.CrawlLimits{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/redfish/v1/", "/redfish/v1/Systems", "/redfish/v1/Systems/1", "/redfish/v1/Systems/2", "/redfish/v1/Systems?$skip=2",
		"/redfish/v1/Systems/1/Info", "/redfish/v1/Registries",
	}
	if diff := cmp.Diff(want, uris(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Resources[3].Err == "" || got.Cut != "" {
		t.Errorf("a missing resource: %q, cut %q", got.Resources[3].Err, got.Cut)
	}
}

// endless is a BMC whose every resource links to two new ones.
type endless struct{ body string }

func (e endless) Fetch(_ context.Context, uri string) ([]byte, error) {
	return fmt.Appendf(nil, `{"a":{"@odata.id":"%sa/"},"b":{"@odata.id":"%sb/"},"filler":%q}`, uri, uri, e.body), nil
}

func TestThreat35CrawlIsBounded(t *testing.T) {
	got, err := redfish.Crawl(t.Context(), endless{}, redfish.CrawlLimits{Count: 50})
	if err != nil || len(got.Resources) != 50 || !strings.Contains(got.Cut, "resources") {
		t.Errorf("%d resources, cut %q, %v", len(got.Resources), got.Cut, err)
	}
	got, err = redfish.Crawl(t.Context(), endless{strings.Repeat("x", 1000)}, redfish.CrawlLimits{Bytes: 10_000})
	if err != nil || len(got.Resources) > 10 || !strings.Contains(got.Cut, "bytes") {
		t.Errorf("%d resources, cut %q, %v", len(got.Resources), got.Cut, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := redfish.Crawl(ctx, endless{}, redfish.CrawlLimits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestEncodingsHoldNoSecretAndAreWellFormed(t *testing.T) {
	const password = "0penBmc"
	doc := tree{"/redfish/v1/": `{"@odata.id":"/redfish/v1","1st <key>":"a&b <c> ]]>","xmlns":"x","item":[1,[true,null],{"é":"ü"}],"member":{},
		"":0.10,"Password":"hunter2","SessionToken":"abc","PasswordChangeRequired":"no","note":"it is 0penBmc","0penBmc":1,"nul":"a\u0000b\ud800",
		"x":{"@odata.id":"/redfish/v1/gone"}}`}
	got, err := redfish.Crawl(t.Context(), doc, redfish.CrawlLimits{}, fleet.NewSecret(password))
	if err != nil {
		t.Fatal(err)
	}
	var asJSON, asXML bytes.Buffer
	if err := errors.Join(got.JSON(&asJSON), got.XML(&asXML)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"JSON": asJSON.String(), "XML": asXML.String()} {
		for _, secret := range []string{password, "hunter2", `"abc"`, ">abc<"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %q:\n%s", name, secret, text)
			}
		}
		if !strings.Contains(text, "0.10") || !strings.Contains(text, "PasswordChangeRequired") || !strings.Contains(text, "404") {
			t.Errorf("%s lacks something:\n%s", name, text)
		}
	}
	if !json.Valid(asJSON.Bytes()) {
		t.Error("not JSON")
	}
	wellFormed(t, asXML.Bytes())
}

// wellFormed checks with the standard decoder, and with xmllint where there is one.
func wellFormed(t *testing.T, doc []byte) {
	t.Helper()
	dec := xml.NewDecoder(bytes.NewReader(doc))
	for {
		_, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
	}
	if lint, err := exec.LookPath("xmllint"); err == nil {
		cmd := exec.CommandContext(t.Context(), lint, "--noout", "-")
		cmd.Stdin = bytes.NewReader(doc)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("xmllint: %v\n%s", err, out)
		}
	}
}

func TestCrawlOfAWholeBMC(t *testing.T) {
	b, _, _, c := start(t, bmcsim.Config{})
	got, err := redfish.Crawl(t.Context(), c, redfish.CrawlLimits{}, fleet.NewSecret(bmcsim.DefaultPassword))
	if err != nil || got.Cut != "" || len(got.Resources) < 50 {
		t.Fatalf("%d resources, cut %q, %v", len(got.Resources), got.Cut, err)
	}
	for _, r := range got.Resources {
		if r.Err != "" && !strings.Contains(r.Err, "404") { // real ones too have links to nothing
			t.Errorf("%s: %s", r.URI, r.Err)
		}
	}
	if s := b.Stats(); s.Handshakes != 1 || s.Writes != 0 {
		t.Errorf("%d handshakes, %d writes", s.Handshakes, s.Writes)
	}
	var doc bytes.Buffer
	if err := got.XML(&doc); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, doc.Bytes())
}

func FuzzXML(f *testing.F) {
	f.Add(`{"a":{"b":[1,null,"x"]},"<":"\u0001"}`)
	f.Add(`{"xml":1,"a b":{"@odata.id":"/redfish/v1/x"}}`)
	for _, body := range recorded.Bodies(f) {
		f.Add(string(body))
	}
	f.Fuzz(func(t *testing.T, body string) {
		if !json.Valid([]byte(body)) {
			t.Skip()
		}
		got, err := redfish.Crawl(t.Context(), tree{"/redfish/v1/": body}, redfish.CrawlLimits{})
		if err != nil {
			t.Fatal(err)
		}
		var doc bytes.Buffer
		if err := got.XML(&doc); err != nil {
			t.Fatal(err)
		}
		wellFormedFast(t, doc.Bytes())
	})
}

func wellFormedFast(t *testing.T, doc []byte) {
	t.Helper()
	dec := xml.NewDecoder(bytes.NewReader(doc))
	for {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("not XML: %v\n%s", err, doc)
		}
	}
}

func TestPaging(t *testing.T) {
	doc := tree{
		"/c":         `{"Members":[{"@odata.id":"/a"},{"@odata.id":"/b"}],"Members@odata.nextLink":"https://b.example/c?$skip=2"}`,
		"/c?$skip=2": `{"Members":[{"@odata.id":"/d"},{"no":"link"}],"Members@odata.nextLink":"/c"}`,
		"/odd":       `{"Members":"none","Members@odata.nextLink":{"@odata.id":"/c?$skip=2"}}`,
	}
	got, err := redfish.Members(t.Context(), doc, "/c", 100)
	if diff := cmp.Diff([]redfish.Link{"/a", "/b", "/d"}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, _ := redfish.Members(t.Context(), doc, "/c", 1); len(got) != 1 {
		t.Errorf("%d members; want the limit of 1", len(got))
	}
	if got, err := redfish.Members(t.Context(), doc, "/odd", 9); err != nil || len(got) != 3 {
		t.Errorf("a link object in the place of the URL: %v, %v; want the two pages it leads to", got, err)
	}
	if _, err := redfish.Members(t.Context(), doc, "/none", 9); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
}

func TestCrawlFollowsWhatOthersNameOtherwise(t *testing.T) {
	doc := tree{
		"/redfish/v1/": `{"Registries":{"@odata.id":"/redfish/v1/Registries"},"Members":["/redfish/v1/bare"],"old":{"href":"/redfish/v1/old"},
			"spaced":{"@odata.id":"/redfish/v1/Bay 0"},"ServerSentEventUri":"/redfish/v1/SSE","Skipped":{"@odata.id":"/redfish/v1/Logs"}}`,
		"/redfish/v1/Registries":        `{"Location":[{"Uri":"/redfish/v1/Schemas/Base.json","PublicationUri":"https://elsewhere.example/Base.json"}]}`,
		"/redfish/v1/Schemas/Base.json": `{}`, "/redfish/v1/bare": `{}`, "/redfish/v1/old": `{}`, "/redfish/v1/Bay%200": `{}`, "/redfish/v1/odata": `{}`,
	}
	got, err := redfish.Crawl(t.Context(), doc, redfish.CrawlLimits{Skip: func(uri string) bool { return strings.HasSuffix(uri, "/Logs") }})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/redfish/v1/", "/redfish/v1/bare", "/redfish/v1/old", "/redfish/v1/Bay%200", "/redfish/v1/odata", "/redfish/v1/Registries", "/redfish/v1/Schemas/Base.json",
	}
	if diff := cmp.Diff(want, uris(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestCrawlReadsPastWhatIsBroken: links in a broken resource, those that a decoder
// drops, and those of a root from before Redfish 1.0 are followed.
func TestCrawlReadsPastWhatIsBroken(t *testing.T) {
	doc := tree{
		"/redfish/v1/":       `{"a":{"@odata.id":"/redfish/v1/x"},"a":{"@odata.id":"/redfish/v1/y"},"old":{"href":"/rest/v1/z"}}`,
		"/redfish/v1/x":      `{"n":1e999,"Members":[null,{"@odata.id":"/Redfish/v1/deep"}]}`,
		"/redfish/v1/y":      `{"Members":[{"@odata.id":"\/redfish\/v1\/w"},`,
		"/redfish/v1/w":      "\xEF\xBB\xBF" + `{"b":{"@odata.id":"/redfish/v1/v"}}`,
		"/rest/v1/z":         `{}`,
		"/Redfish/v1/deep":   `{}`,
		"/redfish/v1/v":      `[]`,
		"/redfish/v1/nobody": `{}`,
	}
	got, err := redfish.Crawl(t.Context(), doc, redfish.CrawlLimits{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/redfish/v1/", "/redfish/v1/y", "/rest/v1/z", "/redfish/v1/x", "/redfish/v1/w", "/Redfish/v1/deep", "/redfish/v1/v"}
	if diff := cmp.Diff(want, uris(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
