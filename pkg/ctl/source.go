package ctl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chiba-mesh/chiba/pkg/cli"
	"github.com/chiba-mesh/chiba/pkg/client"
	"github.com/chiba-mesh/chiba/pkg/fault"
	"github.com/chiba-mesh/chiba/pkg/order"
	"github.com/chiba-mesh/chiba/pkg/scl"
	"github.com/chiba-mesh/chiba/pkg/scl/compile"
	"github.com/chiba-mesh/chiba/pkg/scl/syntax"
)

// stdinName is how a script from standard input is called.
const stdinName = "<stdin>"

// arguments is how a script is called that a command line is made into.
const arguments = "arguments"

// maxRead is where reading ends. A script may have less by far: the check says
// how much too long it is.
const maxRead = 64 << 20

// readSource reads a script; "-" is standard input.
func readSource(cmd *cobra.Command, file string) (client.Source, error) {
	in := cmd.InOrStdin()
	name := stdinName
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return client.Source{}, unreadable(file, err)
		}
		defer func() { _ = f.Close() }()
		in, name = f, file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxRead))
	if err != nil {
		return client.Source{}, unreadable(file, err)
	}
	return client.Source{File: name, Text: text}, nil
}

func unreadable(file string, err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	f := &fault.Error{Kind: fault.BadInput, Op: "read " + file, Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Kind, f.Hint = fault.NotFound, "give the path of a script, or - for standard input"
	case errors.Is(err, fs.ErrPermission):
		f.Hint = "look at its permissions"
	default:
		f.Hint = "give the path of a script, or - for standard input"
	}
	return f
}

// readScripts reads and checks files. All of them are checked before an error
// ends it, so that one look shows all there is to mend.
func readScripts(cmd *cobra.Command, files []string) ([]script, error) {
	var out []script
	var bad []string
	errs := 0
	for _, file := range files {
		src, err := readSource(cmd, file)
		if err != nil {
			return nil, err
		}
		signed, name, err := unwrap(&src)
		if err != nil {
			return nil, err
		}
		s, n := check(cmd, src)
		s.signed, s.name = signed, name
		if n > 0 {
			bad, errs = append(bad, src.File), errs+n
		}
		out = append(out, s)
	}
	if errs > 0 {
		return nil, wrong(strings.Join(bad, ", "), errs).WithHint("nothing was sent; correct it and try again")
	}
	return out, nil
}

// signedSuffix is how the files of signed scripts end.
const signedSuffix = ".dsse"

// unwrap finds the script in a signed one, which says its name itself.
func unwrap(src *client.Source) (*client.Signed, string, error) {
	if !strings.HasSuffix(src.File, signedSuffix) {
		return nil, "", nil
	}
	signed, err := client.DecodeSigned(src.Text)
	if err != nil {
		return nil, "", err
	}
	o, err := signed.Order()
	if err != nil {
		return nil, "", err
	}
	if !o.Scripted() || o.Digest != order.Digest(signed.Source) {
		return nil, "", fault.New(fault.Untrusted, "read "+src.File, "the script in it is not the one that was signed").
			WithHint("prepare it again: chiba apply --prepare " + src.File + " SCRIPT")
	}
	src.File, src.Text, src.AllowEmpty = o.File, signed.Source, o.AllowEmpty
	return &signed, o.Name, nil
}

// check compiles a script here, prints what is wrong with it, and counts the
// errors.
func check(cmd *cobra.Command, src client.Source) (s script, errs int) {
	program, diags := compile.Source(src.File, src.Text)
	s = script{source: src, program: program, warnings: diags.String()}
	printLines(cmd.ErrOrStderr(), s.warnings)
	return s, diags.Errors()
}

func wrong(file string, n int) *fault.Error {
	return fault.New(fault.BadInput, "", cli.Count(n, "error")+" in "+file)
}

// command is a script made of the words of a command line. What is wrong with
// it is wrong with the command line.
func command(cmd *cobra.Command, verb string, words []string) (client.Source, error) {
	text := "(" + verb + " " + strings.Join(words, " ") + ")"
	src := client.Source{File: arguments, Text: []byte(text)}
	program, diags := compile.Source(src.File, src.Text)
	switch {
	case diags.Errors() > 0:
		printLines(cmd.ErrOrStderr(), diags.String())
		return src, cli.UsageError(cmd.CommandPath()+" can't use these arguments", "see: "+cmd.CommandPath()+" --help")
	case len(program.Steps) != 1 || program.Standing() || len(program.Steps[0].Action) > 0:
		return src, cli.UsageError("the arguments of "+cmd.CommandPath()+" are more than one form", "give forms to chiba apply, in a file")
	}
	return src, nil
}

// printLines prints a text of several lines, each without what could drive a
// terminal.
func printLines(w io.Writer, text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintln(w, cli.Clean(line))
	}
}

// elements completes an element reference from the registry.
func elements(prefix string) completion {
	var out completion
	for _, e := range scl.Elements() {
		if strings.HasPrefix(e.Name, prefix) && !strings.Contains(e.Name, "*") {
			out = append(out, e.Name+"\t"+e.Doc)
		}
	}
	return out
}

func sclCommand() *cobra.Command {
	cmd := cli.Parent(&cobra.Command{
		Use:     "scl",
		GroupID: cli.GroupTools,
		Short:   "check and format scripts; needs no coordinator",
		Example: "  chiba scl check rack.scl\n  chiba scl fmt -w rack.scl",
	})
	cmd.AddCommand(sclCheck(), sclFmt())
	return cmd
}

func sclCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check FILE…",
		Short:   "say what is wrong with scripts",
		Example: "  chiba scl check rack.scl\n  chiba scl check --json rack.scl",
		Args:    cli.Args(1, -1),

		ValidArgsFunction: completeFiles,
	}
	asJSON := cmd.Flags().Bool("json", false, "print the diagnostics as JSON on stdout, as -o json does")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := cli.OutputOf(cmd)
		if err != nil {
			return err
		}
		if *asJSON {
			format = cli.JSONFormat
		}
		all, names := syntax.Diagnostics{}, []string{}
		for _, file := range args {
			src, err := readSource(cmd, file)
			if err != nil {
				return err
			}
			names = append(names, src.File)
			_, diags := compile.Source(src.File, src.Text)
			all = append(all, diags...)
		}
		if format.Machine() {
			if err := cli.Encode(cmd.OutOrStdout(), format, all); err != nil {
				return err
			}
			return cli.Silently(min(all.Errors(), cli.Fail))
		}
		printLines(cmd.ErrOrStderr(), all.String())
		if n := all.Errors(); n > 0 {
			return wrong(strings.Join(names, ", "), n)
		}
		return nil
	}
	return cmd
}

func sclFmt() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "fmt FILE…",
		Short:   "lay scripts out in the one way of SCL",
		Example: "  chiba scl fmt rack.scl\n  chiba scl fmt -w *.scl\n  chiba scl fmt - < rack.scl",
		Args:    cli.Args(1, -1),

		ValidArgsFunction: completeFiles,
	}
	write := cmd.Flags().BoolP("write", "w", false, "write the files instead of stdout, and name those that changed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, file := range args {
			if err := formatFile(cmd, file, *write); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func formatFile(cmd *cobra.Command, file string, write bool) error {
	src, err := readSource(cmd, file)
	if err != nil {
		return err
	}
	out, diags := syntax.Format(src.File, src.Text)
	if n := diags.Errors(); n > 0 {
		printLines(cmd.ErrOrStderr(), diags.String())
		return wrong(src.File, n)
	}
	if !write || file == "-" {
		_, err := cmd.OutOrStdout().Write(out)
		return err
	}
	if string(out) == string(src.Text) {
		return nil
	}
	if err := replace(file, out); err != nil {
		return fault.Wrap(fault.Unavailable, "write "+file, err)
	}
	fmt.Fprintln(cmd.OutOrStdout(), cli.Clean(file))
	return nil
}

// replace writes a file whole or not at all, and keeps its permissions.
func replace(file string, text []byte) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	fresh := file + ".new"
	if err := os.WriteFile(fresh, text, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(fresh, file)
}
