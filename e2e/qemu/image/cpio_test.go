package image

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// listing reads an archive as the kernel does, by its own arithmetic.
func listing(t *testing.T, archive []byte) []string {
	t.Helper()
	var out []string
	for {
		if len(archive) < 110 || string(archive[:6]) != "070701" {
			t.Fatalf("no header at %q", archive[:min(len(archive), 20)])
		}
		number := func(field int) int {
			raw, err := hex.DecodeString(string(archive[6+8*field : 14+8*field]))
			if err != nil {
				t.Fatal(err)
			}
			return int(raw[0])<<24 | int(raw[1])<<16 | int(raw[2])<<8 | int(raw[3])
		}
		mode, size, length := number(1), number(6), number(11)
		name := string(archive[110 : 110+length-1])
		if archive[110+length-1] != 0 {
			t.Fatalf("the name %q has no end", name)
		}
		at := (110 + length + 3) / 4 * 4
		content := string(archive[at : at+size])
		archive = archive[(at+size+3)/4*4:]
		if name == "TRAILER!!!" {
			if len(archive) != 0 {
				t.Errorf("%d bytes are behind the end", len(archive))
			}
			return out
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%o %s %s", mode, name, content)))
	}
}

func TestCPIO(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []File
		want  []string
	}{
		{"empty", nil, nil},
		{"an init", []File{{"init", 0o755, []byte("run")}}, []string{"100755 init run"}},
		{"folders once, before what is in them", []File{
			{"lib/modules/a.ko", 0o644, []byte("a")},
			{"lib/modules/b.ko", 0o644, []byte("four")},
			{"lib/c", 0o600, nil},
		}, []string{"40755 lib", "40755 lib/modules", "100644 lib/modules/a.ko a", "100644 lib/modules/b.ko four", "100600 lib/c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, listing(t, CPIO(c.files))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
