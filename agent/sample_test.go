package agent

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const sample = "../deploy/agent.yaml"

func TestTheSampleConfigurationIsOne(t *testing.T) {
	got, err := ReadConfig(sample)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join("../deploy", "bmc-password"); got.Login.PasswordFile != want {
		t.Errorf("the password file is %s, not %s", got.Login.PasswordFile, want)
	}
	if len(got.Nodes) != 2 || got.loginOf(got.Nodes[1]).Factory != FactoryOpenBMC {
		t.Errorf("its nodes: %+v", got.Nodes)
	}
}

func TestTheSampleConfigurationNamesEveryField(t *testing.T) {
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	var written any
	if err := yaml.Unmarshal(text, &written); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	paths(written, "", have)
	for _, field := range fields(reflect.TypeFor[Config](), "") {
		if !have[field] {
			t.Errorf("%s does not show %s", sample, field)
		}
	}
}

// paths notes the path of every field of a document: "login.user", "nodes.pin".
func paths(v any, at string, have map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			have[at+k] = true
			paths(inner, at+k+".", have)
		}
	case []any:
		for _, inner := range v {
			paths(inner, at, have)
		}
	}
}

// fields are the paths of all that t can be written with. A login is one whole
// wherever it stands: that of a node is shown by one field of it.
func fields(t reflect.Type, at string) []string {
	var out []string
	for f := range t.Fields() {
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		inner := f.Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		switch {
		case name == "-":
		case option == "inline":
			out = append(out, at+"factory")
		default:
			out = append(out, at+name)
			if inner.Kind() == reflect.Struct {
				out = append(out, fields(inner, at+name+".")...)
			}
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "login.factory" }) // stands alone, so without the others
}
