package bmcsim_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

// TestCases plays the exchanges in testdata/*.txt, each file on a BMC of its
// own, from top to bottom:
//
//	as root              log in; "as nobody" sends no token, "as basic U:P" a password
//	> GET /redfish/v1    the request
//	> Name: value        a header of it; $NAME stands for what was kept
//	> {"a": 1}           its body
//	< 200                the status, then what the answer must show:
//	< Name: value        a header; "< no Name" says it is absent
//	< empty              no body
//	< message KEY arg …  the Base message of an error or a bare note
//	< has {"a": 1}       these properties, with these values
//	< lacks Name/Inner   the body has no such property
//	< keep NAME Header   keep a header's value for later
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := &player{t: t, file: file, kept: map[string]string{}}
			cfg := bmcsim.Config{
				PowerOn: true, Transition: time.Hour, Serial: "SIM0001",
				HostNIC: &bmcsim.NIC{Address: "10.0.0.20", Netmask: "255.255.255.0", Gateway: "10.0.0.1"},
				Drives:  []bmcsim.Drive{{ID: "sda", Bytes: 500e9, Media: "SSD", Model: "SIM-SSD-500"}},
			}
			switch filepath.Base(file) {
			case "dumps.txt": // at once
				cfg.Transition = time.Nanosecond
			case "board.txt":
				cfg.Board, cfg.PCIe = true, []bmcsim.PCIe{{ID: "nic0", Manufacturer: "Mellanox", Model: "CX-6", Part: "MCX"}}
			}
			_, p.caller = start(t, cfg)
			p.play(strings.Split(string(text), "\n"))
		})
	}
}

type player struct {
	*caller
	t       *testing.T
	file    string
	line    int
	kept    map[string]string
	request []string
	basic   []string
	got     answer
}

func (p *player) play(lines []string) {
	for i, line := range lines {
		p.line = i + 1
		switch word, rest, _ := strings.Cut(line, " "); word {
		case "as":
			p.as(rest)
		case ">":
			p.request = append(p.request, rest)
		case "<":
			if p.request != nil {
				p.send()
			}
			p.check(rest)
		}
	}
}

func (p *player) fail(format string, args ...any) {
	p.t.Helper()
	p.t.Errorf("%s:%d: %s\n%d %s", p.file, p.line, fmt.Sprintf(format, args...), p.got.status, p.got.text)
}

func (p *player) as(who string) {
	p.token, p.basic = "", nil
	kind, pair, _ := strings.Cut(who, " ")
	switch kind {
	case "nobody":
	case "basic":
		p.basic = strings.SplitN(pair, ":", 2)
	default:
		password := bmcsim.DefaultPassword
		if pair != "" {
			password = pair
		}
		if p.got = p.login(kind, password); p.token == "" {
			p.fail("%s can't log in", kind)
		}
	}
}

func (p *player) send() {
	method, path, _ := strings.Cut(p.expand(p.request[0]), " ")
	var headers []string
	var body strings.Builder
	for _, line := range p.request[1:] {
		if name, _, isHeader := strings.Cut(line, ": "); isHeader && !strings.ContainsAny(name, "{[\" ") {
			headers = append(headers, p.expand(line))
			continue
		}
		body.WriteString(line)
	}
	if p.basic != nil {
		headers = append(headers, "Authorization: Basic "+encodeBasic(p.basic[0], p.basic[1]))
	}
	p.request = nil
	p.got = p.do(method, path, body.String(), headers...)
}

func (p *player) expand(s string) string {
	for name, value := range p.kept {
		s = strings.ReplaceAll(s, "$"+name, value)
	}
	return s
}

func (p *player) check(want string) {
	word, rest, _ := strings.Cut(want, " ")
	switch {
	case len(word) == 3 && word[0] >= '1' && word[0] <= '5':
		if word != strconv.Itoa(p.got.status) {
			p.fail("status %d, want %s", p.got.status, word)
		}
	case word == "no":
		if v := p.got.header.Values(rest); len(v) > 0 {
			p.fail("there is a header %s: %q", rest, v)
		}
	case word == "empty":
		if p.got.text != "" {
			p.fail("there is a body")
		}
	case word == "message":
		p.checkMessage(strings.Split(rest, " "))
	case word == "has":
		p.checkHas(rest)
	case word == "lacks":
		if v := at(p.got.body, strings.Split(rest, "/")); v != nil {
			p.fail("there is a property %s: %v", rest, v)
		}
	case word == "keep":
		name, header, _ := strings.Cut(rest, " ")
		p.kept[name] = p.got.header.Get(header)
	case strings.HasSuffix(word, ":"):
		name := strings.TrimSuffix(word, ":")
		if got := p.got.header.Values(name); len(got) != 1 || got[0] != p.expand(rest) {
			p.fail("header %s is %q, want %q", name, got, p.expand(rest))
		}
	default:
		p.fail("the case says something unknown: %s", want)
	}
}

func at(o map[string]any, path []string) any {
	if len(path) == 1 {
		return o[path[0]]
	}
	inner, _ := o[path[0]].(map[string]any)
	return at(inner, path[1:])
}

func (p *player) checkMessage(want []string) {
	e, isError := p.got.body["error"].(map[string]any)
	if !isError {
		e = p.got.body
	}
	list, _ := e["@Message.ExtendedInfo"].([]any)
	var all []string
	for _, item := range list {
		m, _ := item.(map[string]any)
		args, _ := m["MessageArgs"].([]any)
		got := []string{strings.TrimPrefix(fmt.Sprint(m["MessageId"]), "Base.1.19.")}
		for _, a := range args {
			got = append(got, strings.ReplaceAll(fmt.Sprint(a), " ", "_"))
		}
		if cmp.Equal(got, want) {
			return
		}
		all = append(all, strings.Join(got, " "))
	}
	p.fail("no message %q among %q", want, all)
}

// checkHas compares only what the case names, and arrays whole.
func (p *player) checkHas(text string) {
	var want map[string]any
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		p.fail("the case is no JSON: %v", err)
		return
	}
	if diff := cmp.Diff(want, subset(p.got.body, want)); diff != "" {
		p.fail("properties differ (-want +got):\n%s", diff)
	}
}

func subset(got, want any) any {
	g, gotObj := got.(map[string]any)
	w, wantObj := want.(map[string]any)
	if !gotObj || !wantObj {
		return got
	}
	out := map[string]any{}
	for key := range w {
		if v, found := g[key]; found {
			out[key] = subset(v, w[key])
		}
	}
	return out
}
