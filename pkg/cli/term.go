package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Screen is what a command writes to, as far as layout and colour go.
type Screen struct {
	Terminal      bool
	Width, Height int // of a terminal
	Colour        bool
}

// ScreenOf is about w: only a file that is a terminal has a width, and colour
// unless NO_COLOR is set (no-color.org) or TERM is dumb.
func ScreenOf(w io.Writer) Screen {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return Screen{}
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	dumb := os.Getenv("TERM") == "dumb"
	return Screen{Terminal: !dumb, Width: width, Height: height, Colour: os.Getenv("NO_COLOR") == "" && !dumb}
}

// Colour of a text on a terminal.
type Colour string

// The colours: by meaning, as SGR codes of the eight every terminal has.
const (
	Plain  Colour = ""
	Good   Colour = "32"
	Warn   Colour = "33"
	Bad    Colour = "31"
	Strong Colour = "1"
	Faint  Colour = "2"
)

// Paint is s in colour c, if the screen has colours.
func (s Screen) Paint(c Colour, text string) string {
	if !s.Colour || c == Plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// Asks reports whether somebody sits at cmd's input to answer questions.
func Asks(cmd *cobra.Command) bool {
	in, ok := cmd.InOrStdin().(*os.File)
	return ok && term.IsTerminal(int(in.Fd()))
}

// Ask puts a question to who sits at the terminal, wherever the output goes,
// and reports whether the answer begins with y. No answer is no.
func Ask(cmd *cobra.Command, question string) bool {
	in, out := cmd.InOrStdin(), cmd.ErrOrStderr()
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		defer func() { _ = tty.Close() }()
		in, out = tty, tty
	}
	fmt.Fprint(out, question+" [y/N] ")
	line, _ := bufio.NewReader(in).ReadString('\n')
	if !strings.HasSuffix(line, "\n") {
		fmt.Fprintln(out)
	}
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(line)), "y")
}
