package cli

import "testing"

func TestFold(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"      --a int   short\n", "      --a int   short\n"},
		{"  -b, --b dir   one two three four five\n", "  -b, --b dir   one two three\n                four five\n"},
		{"      --c       ein-wort-das-laenger-ist-als-alles\n", "      --c       ein-wort-das-laenger-ist-als-alles\n"},
		{"a line of text that is no flag and is left as it is\n", "a line of text that is no flag and is left as it is\n"},
		{"      --no-description-at-all-but-a-long-name\n", "      --no-description-at-all-but-a-long-name\n"},
	} {
		if got := fold(c.line, 30); got != c.want {
			t.Errorf("%q\n got %q\nwant %q", c.line, got, c.want)
		}
	}
}
