package inventory_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/chiba-mesh/chiba/pkg/redfish"
	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim/mock"
	"github.com/chiba-mesh/chiba/pkg/redfish/inventory"
	"github.com/chiba-mesh/chiba/pkg/redfish/recorded"
)

// healthy is a service with one of everything that the shapes bend.
func healthy() map[string]string {
	return map[string]string{
		"index.json": `{"@odata.id":"/redfish/v1/","@odata.type":"#ServiceRoot.v1_5_0.ServiceRoot","Systems":{"@odata.id":"/redfish/v1/Systems"}}`,
		"Systems/index.json": `{"@odata.id":"/redfish/v1/Systems","@odata.type":"#C.C",
			"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}`,
		"Systems/1/index.json": `{"@odata.id":"/redfish/v1/Systems/1","@odata.type":"#ComputerSystem.v1_0_0.ComputerSystem","Name":"one",
			"Memory":{"@odata.id":"/redfish/v1/Systems/1/Memory"}}`,
		"Systems/1/Memory/index.json": `{"@odata.id":"/redfish/v1/Systems/1/Memory","@odata.type":"#C.C",
			"Members":[{"@odata.id":"/redfish/v1/Systems/1/Memory/A"}]}`,
		"Systems/1/Memory/A/index.json": `{"@odata.id":"/redfish/v1/Systems/1/Memory/A","@odata.type":"#Memory.v1_0_0.Memory","Name":"A","SerialNumber":"S-A"}`,
	}
}

const systems, memoryA = "Systems/index.json", "Systems/1/Memory/A/index.json"

func wide(order binary.ByteOrder, mark bool, text string) string {
	var b bytes.Buffer
	if mark {
		_ = binary.Write(&b, order, uint16(0xFEFF))
	}
	_ = binary.Write(&b, order, utf16.Encode([]rune(text)))
	return b.String()
}

func zipped(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	if _, err := z.Create("schema.xml"); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// shape is one way in which a tree may be hard to read.
type shape struct {
	name  string
	files map[string]string // that replace or add to the healthy ones; "" removes
	odd   string            // what is said of it, once; "": nothing
	// unlinked is how many files only the walk of the folder finds.
	unlinked int
	blind    bool // the module's serial number can't be read
}

func shapes(t *testing.T) []shape {
	t.Helper()
	module := healthy()[memoryA]
	in := func(old, with string) map[string]string {
		return map[string]string{systems: strings.Replace(healthy()[systems], old, with, 1)}
	}
	return []shape{
		{name: "nothing odd"},
		{name: "links with slashes at the end", files: in(`Systems/1"`, `Systems/1/"`)},
		{name: "members as texts", files: in(`{"@odata.id":"/redfish/v1/Systems/1"}`, `"/redfish/v1/Systems/1"`), odd: "bare texts"},
		{name: "a null member", files: in(`"Members":[`, `"Members":[null,`), odd: "null"},
		{name: "a null list", files: in(`[{"@odata.id":"/redfish/v1/Systems/1"}]`, `null,"x":{"@odata.id":"/redfish/v1/Systems/1"}`), odd: "no list"},
		{name: "a list that is an object", files: in(`[{"@odata.id":"/redfish/v1/Systems/1"}]`, `{"@odata.id":"/redfish/v1/Systems/1"}`), odd: "no list"},
		{name: "a count that lies", files: in(`"Members":`, `"Members@odata.count":7,"Members":`), odd: "says that it has 7 Members and lists 1"},
		{name: "a count that is no number", files: in(`"Members":`, `"Members@odata.count":"many","Members":`)},
		{name: "a byte order mark", files: map[string]string{memoryA: "\xEF\xBB\xBF" + module}, odd: "byte order mark"},
		{name: "UTF-16 with a mark", files: map[string]string{memoryA: wide(binary.LittleEndian, true, module)}, odd: "UTF-16"},
		{name: "UTF-16 without", files: map[string]string{memoryA: wide(binary.BigEndian, false, module)}, odd: "UTF-16"},
		{name: "a name that stands twice", files: in(`"Members":[`, `"Members":[{"@odata.id":"/redfish/v1/Systems/1"}],"Members":[],"x":[`), odd: `"Members" twice`},
		{name: "the members dropped with it", files: in(`]}`, `],"Members":[]}`), odd: `"Members" twice`},
		{
			name: "a number that nobody can hold", odd: "too large",
			files: map[string]string{memoryA: strings.Replace(module, `"Name"`, `"CapacityMiB":1e999,"Name"`, 1)},
		},
		{
			name: "a number of 10,000 digits", odd: "too large",
			files: map[string]string{memoryA: strings.Replace(module, `"Name"`, `"CapacityMiB":`+strings.Repeat("9", 10_000)+`,"Name"`, 1)},
		},
		{name: "a raw line break in a text", files: map[string]string{memoryA: strings.Replace(module, `"A"`, "\"A\n\tB\"", 1)}, odd: "control characters"},
		{name: "zeros behind the end", files: map[string]string{memoryA: module + "\x00\x00"}, odd: "zero bytes"},
		{name: "a list of one", files: map[string]string{memoryA: "[" + module + "]"}, odd: "list of one"},
		{name: "broken in the middle", files: in(`,`, `,,`), odd: "broken JSON"},
		{name: "cut in the middle", files: map[string]string{memoryA: module[:60]}, odd: "broken JSON", blind: true},
		{name: "empty", files: map[string]string{memoryA: " "}, odd: "empty", blind: true},
		{name: "a bare number", files: map[string]string{memoryA: "17"}, odd: "no object", blind: true},
		{name: "nested very deep", files: map[string]string{memoryA: strings.Repeat("[", 100_000)}, odd: "broken JSON", blind: true},
		{name: "a cycle", files: map[string]string{memoryA: strings.Replace(module, "{", `{"Up":{"@odata.id":"/redfish/v1/Systems/1/"},"Self":{"@odata.id":"/redfish/v1/Systems/1/Memory/A"},`, 1)}},
		{name: "no id", files: map[string]string{memoryA: strings.Replace(module, `"@odata.id":"/redfish/v1/Systems/1/Memory/A",`, "", 1)}, odd: "no @odata.id"},
		{name: "an id that is a number", files: map[string]string{memoryA: strings.Replace(module, `"/redfish/v1/Systems/1/Memory/A"`, "7", 1)}, odd: "no @odata.id"},
		{name: "no type", files: map[string]string{memoryA: strings.Replace(module, `"@odata.type":"#Memory.v1_0_0.Memory",`, "", 1)}, odd: "no @odata.type"},
		{name: "a type that is a list", files: map[string]string{memoryA: strings.Replace(module, `"#Memory.v1_0_0.Memory"`, `["#Memory"]`, 1)}, odd: "no @odata.type"},
		{name: "links in another case", files: in(`Systems/1"`, `systems/1"`), odd: "another case"},
		{name: "links in both cases", files: in(`[{`, `[{"@odata.id":"/redfish/v1/SYSTEMS/1"},{`), odd: "another case"},
		{
			name: "an OEM root beside it", files: map[string]string{
				"Systems/1/index.json": strings.Replace(healthy()["Systems/1/index.json"], `"Memory"`, `"Oem":{"Acme":{"More":{"@odata.id":"/redfish/v1/Oem/Acme"}}},"Memory"`, 1),
				"Oem/Acme/index.json":  `{"@odata.id":"/redfish/v1/Oem/Acme","@odata.type":"#AcmeThing.v9.AcmeThing","Memory":[{"@odata.type":"#Memory.v1.Memory","Name":"hidden"}]}`,
			},
		},
		{name: "a file of its own name", files: map[string]string{memoryA: "", "Systems/1/Memory/A.json": module}},
		{name: "XML metadata", files: map[string]string{"$metadata/index.xml": `<edmx:Edmx/>`}, odd: "XML or HTML", unlinked: 1},
		{name: "an XML index beside the other", files: map[string]string{"Systems/index.xml": `<x/>`}, odd: "XML or HTML", unlinked: 1},
		{name: "an archive", files: map[string]string{"schemas.zip": zipped(t)}, odd: "zip archive", unlinked: 1},
		{name: "a file that no link names", files: map[string]string{"Lost/index.json": `{"@odata.id":"/redfish/v1/Lost","@odata.type":"#Lost.Lost"}`}, unlinked: 1},
	}
}

func TestHardShapes(t *testing.T) {
	for _, s := range shapes(t) {
		t.Run(s.name, func(t *testing.T) {
			dir := t.TempDir()
			files := healthy()
			maps.Copy(files, s.files)
			lay(t, dir, files)
			trees, err := mock.Open(dir)
			if err != nil || len(trees) != 1 {
				t.Fatalf("%d trees, %v", len(trees), err)
			}
			read, tree := trees[0], crawl(t, trees[0])
			rest := read.Unlinked(tree)
			if len(rest) != s.unlinked {
				t.Errorf("no link leads to %d files, want %d: %+v", len(rest), s.unlinked, rest)
			}
			for _, u := range rest {
				if !strings.HasPrefix(u.Why, "not linked: ") {
					t.Errorf("%s: %q is no reason", u.URI, u.Why)
				}
				tree.Resources = append(tree.Resources, u.Resource)
			}
			if left := read.Unlinked(tree); len(left) > 0 {
				t.Errorf("lost: %v", left)
			}
			inv := inventory.Of(tree)
			nothingLost(t, tree, inv)
			said(t, inv, s.odd)
			if known := serial(inv) == "S-A"; known == s.blind {
				t.Errorf("the module's serial number: %q", serial(inv))
			}
		})
	}
}

// said checks that the oddity, and no other, is told in one line.
func said(t *testing.T, inv *inventory.Inventory, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(inv.Table()) {
		if strings.HasPrefix(line, "odd: ") {
			lines = append(lines, line)
		}
	}
	switch {
	case want == "" && len(lines) > 0, want != "" && (len(lines) != 1 || !strings.Contains(lines[0], want)):
		t.Errorf("odd is %q, want %q once", lines, want)
	}
}

func serial(inv *inventory.Inventory) string {
	for _, m := range inv.Memory {
		if m.Serial.Known() {
			return m.Serial.String()
		}
	}
	return ""
}

// lay writes files under dir; an empty body is no file.
func lay(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, body := range files {
		at := filepath.Join(dir, filepath.FromSlash(name))
		if body == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzTree bends a file of a tree in any way: the rest of it is read all the same.
func FuzzTree(f *testing.F) {
	f.Add([]byte(`{"Members":["/redfish/v1/Systems/1",null,7]}`), "Systems/index.json")
	f.Add([]byte("\xff\xfe{\x00}\x00"), "index.json")
	f.Add([]byte(`<x/>`), "Systems/1.json")
	for _, body := range recorded.Bodies(f) {
		f.Add(body, "Systems/1.json")
	}
	f.Fuzz(func(t *testing.T, body []byte, name string) {
		bodies := map[string][]byte{}
		for file, text := range healthy() {
			bodies["/redfish/v1/"+strings.TrimSuffix(file, "/index.json")] = []byte(text)
		}
		bodies["/redfish/v1"] = []byte(healthy()["index.json"])
		bodies["/redfish/v1/"+strings.Trim(strings.TrimSuffix(name, "index.json"), "/")] = body
		record, err := mock.New("fuzz", bodies)
		if err != nil {
			t.Skip()
		}
		tree := crawl(t, record)
		for _, u := range record.Unlinked(tree) {
			tree.Resources = append(tree.Resources, u.Resource)
		}
		if lost := record.Unlinked(tree); len(lost) > 0 {
			t.Errorf("lost: %v", lost)
		}
		inv := inventory.Of(tree)
		nothingLost(t, tree, inv)
		_ = inv.Table() + inventory.Origins(tree, nil, nil)
	})
}

func TestOriginsCountEveryFile(t *testing.T) {
	bodies := map[string][]byte{
		"/redfish/v1":                       []byte(`{"@odata.type":"#ServiceRoot.ServiceRoot","JsonSchemas":{"@odata.id":"/redfish/v1/JsonSchemas"}}`),
		"/redfish/v1/SchemaStore/Chassis":   []byte(`{"$schema":"http://x"}`),
		"/redfish/v1/Messages/Base":         []byte(`{"@odata.type":"#MessageRegistry.MessageRegistry"}`),
		"/redfish/v1/Systems/1/Storage/One": []byte(`{"@odata.type":"#Drive.Drive"}`),
	}
	record, err := mock.New("x", bodies)
	if err != nil {
		t.Fatal(err)
	}
	tree := crawl(t, record)
	var rest []redfish.Resource
	var why []string
	for _, u := range record.Unlinked(tree) {
		rest, why = append(rest, u.Resource), append(why, u.Why)
	}
	got := inventory.Origins(tree, rest, why)
	for _, want := range []string{
		"1         ·       ·  ServiceRoot", "·         1       ·  JSON schema", "4 files read: 1 by links, 3 without",
		"1 file not linked: the index /redfish/v1/JsonSchemas was not recorded", "1 file not linked: the index /redfish/v1/Systems/1/Storage was not recorded",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}
