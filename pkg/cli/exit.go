package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

// The exit codes of chiba.
const (
	OK     = 0
	Fail   = 1
	Usage  = 2 // the command line is wrong; nothing was tried
	Partly = 3 // some of it was done, some failed
)

// Exit is an error with an exit code of its own. With Silent nothing is
// printed for it: what there is to say stands on the screen already.
type Exit struct {
	Code   int
	Silent bool
	Err    error
}

// Error is the text of the cause.
func (e *Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap is the cause.
func (e *Exit) Unwrap() error { return e.Err }

// UsageError says that the command line is wrong.
func UsageError(msg, hint string) error {
	return &Exit{Code: Usage, Err: &fault.Error{Kind: fault.BadInput, Err: errors.New(msg), Hint: hint}}
}

// Silently ends with code and prints nothing more.
func Silently(code int) error {
	if code == OK {
		return nil
	}
	return &Exit{Code: code, Silent: true}
}

// Code is the exit code that err stands for.
func Code(err error) int {
	var e *Exit
	switch {
	case err == nil:
		return OK
	case errors.As(err, &e):
		return e.Code
	default:
		return Fail
	}
}

// Main runs root with the arguments of the process and returns its exit code.
// The first SIGINT or SIGTERM ends the command's context, the second one the
// process. It prints what went wrong, and what to do about it, to stderr.
func Main(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			c.Short = lowerFirst(c.Short)
		}
		if c.Name() == "help" {
			c.Run, c.RunE = nil, help
		}
	}
	checkArgs(root)
	err := root.ExecuteContext(ctx)
	Report(root.ErrOrStderr(), err)
	return Code(err)
}

// checkArgs makes usage errors of what the commands' argument checks find.
func checkArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil || Code(err) == Usage {
				return err
			}
			return UsageError(cmd.CommandPath()+" "+err.Error(), helpHint(cmd))
		}
	}
	for _, sub := range cmd.Commands() {
		checkArgs(sub)
	}
}

// Report prints err as `chiba: error: …` and `chiba: hint: …`.
func Report(w io.Writer, err error) {
	var e *Exit
	if err == nil || errors.As(err, &e) && e.Silent {
		return
	}
	fmt.Fprintln(w, "chiba: error: "+Clean(err.Error()))
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintln(w, "chiba: hint: "+Clean(hint))
	}
}

// Note prints a remark that is no error to stderr.
func Note(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintln(cmd.ErrOrStderr(), "chiba: note: "+Clean(fmt.Sprintf(format, args...)))
}

// Count is "1 node", "2 nodes".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// Clean makes one line of s that can't drive a terminal: a BMC may call itself
// anything. Line breaks become "; ", other control characters and those that
// reorder text become "�".
func Clean(s string) string {
	s = strings.TrimRight(s, "\r\n")
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("; ")
		case r == '\t':
			b.WriteByte(' ')
		case r == '\r':
		case unprintable(r):
			b.WriteRune('\uFFFD')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || // C0, DEL, C1
		r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || // bidirectional overrides
		r == '\u2028' || r == '\u2029' || r == '\u200e' || r == '\u200f'
}
