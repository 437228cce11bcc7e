package cli

import (
	"bytes"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// helpWidth is where the description of a flag goes on in the next line.
const helpWidth = 100

// folded writes how cmd is used, as usage does, with the descriptions of flags folded.
// A template could do it, and would keep every method of every type in the program.
func folded(cmd *cobra.Command, usage func(*cobra.Command) error) error {
	out := cmd.OutOrStderr()
	var text bytes.Buffer
	cmd.SetOut(&text)
	err := usage(cmd)
	cmd.SetOut(out)
	for line := range strings.Lines(text.String()) {
		if err == nil {
			_, err = io.WriteString(out, fold(line, helpWidth))
		}
	}
	return err
}

// fold breaks the line of a flag at spaces, below the beginning of its description.
func fold(line string, width int) string {
	rest := strings.TrimLeft(line, " ")
	begin := len(line) - len(rest)
	gap := strings.Index(rest, "   ")
	if len([]rune(line)) <= width || !strings.HasPrefix(rest, "-") || gap < 0 {
		return line
	}
	text := strings.TrimLeft(rest[gap:], " ")
	column := begin + len(rest) - len(text)
	var b strings.Builder
	b.WriteString(line[:column])
	at := column
	for i, word := range strings.Fields(text) {
		switch n := len([]rune(word)); {
		case i == 0:
			at += n
		case at+1+n > width:
			b.WriteString("\n" + strings.Repeat(" ", column))
			at = column + n
		default:
			b.WriteByte(' ')
			at += 1 + n
		}
		b.WriteString(word)
	}
	return b.String() + "\n"
}
