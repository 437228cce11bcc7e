// Command threats runs every test that tries one of the threats in rows.txt and
// tells, row by row, whether Chiba withstood it. Its last line is
// "threats: N of TOTAL", where N counts the rows with a test that ran and
// passed and none that failed. It ends with status 1 if one failed.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

//go:embed rows.txt
var rows string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ok, err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "threats: error:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run tests the packages ("./..." if there are none) and writes the table.
func run(ctx context.Context, w io.Writer, packages []string) (ok bool, err error) {
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	args := append([]string{"test", "-json", "-count=1", "-run", "^TestThreat[0-9][0-9]"}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the packages are the caller's
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err = cmd.Start(); err != nil {
		return false, err
	}
	found, broken, err := collect(out)
	if err != nil {
		return false, fmt.Errorf("read what go test says: %w", err)
	}
	waitErr := cmd.Wait()
	ok = tell(w, parse(rows), found) && len(broken) == 0
	for _, p := range broken {
		fmt.Fprintf(os.Stderr, "threats: error: the tests of %s did not end well\n", p)
	}
	return ok && waitErr == nil, nil
}

// row is one threat.
type row struct {
	number         int
	attack, expect string
}

func parse(text string) []row {
	var all []row
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		number, err := strconv.Atoi(cells[0])
		if err != nil || len(cells) != 3 {
			continue // a comment
		}
		all = append(all, row{number, cells[1], cells[2]})
	}
	return all
}

// test is one test of a row and how it ended: "pass", "fail" or "skip".
type test struct{ name, end string }

// event is a line of go test -json (cmd/test2json).
type event struct{ Action, Package, Test string }

var named = regexp.MustCompile(`^TestThreat([0-9]{2})`)

// collect reads the events of go test: the tests of each row, and the packages
// that failed without a failing test of ours, as one that does not compile.
func collect(r io.Reader) (found map[int][]test, broken []string, err error) {
	found = map[int][]test{}
	failed := map[string]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || !slices.Contains([]string{"pass", "fail", "skip"}, e.Action) {
			continue
		}
		if e.Test == "" {
			if e.Action == "fail" && !failed[e.Package] {
				broken = append(broken, e.Package)
			}
			continue
		}
		number := named.FindStringSubmatch(e.Test)
		if number == nil || strings.Contains(e.Test, "/") {
			continue
		}
		failed[e.Package] = failed[e.Package] || e.Action == "fail"
		n, _ := strconv.Atoi(number[1])
		found[n] = append(found[n], test{e.Test, e.Action})
	}
	return found, broken, lines.Err()
}

// tell writes the table and reports whether no test failed.
func tell(w io.Writer, all []row, found map[int][]test) bool {
	held, ok := 0, true
	for _, r := range all {
		state := verdict(found[r.number])
		switch state {
		case "withstood":
			held++
		case "FAILED":
			ok = false
		}
		fmt.Fprintf(w, "%2d  %-10s  %s: %s\n", r.number, state, r.attack, r.expect)
		for _, t := range found[r.number] {
			fmt.Fprintf(w, "      %-4s  %s\n", t.end, t.name)
		}
	}
	fmt.Fprintf(w, "threats: %d of %d\n", held, len(all))
	return ok
}

// verdict is what the tests of one row say together.
func verdict(tests []test) string {
	has := func(end string) bool {
		return slices.ContainsFunc(tests, func(t test) bool { return t.end == end })
	}
	switch {
	case has("fail"):
		return "FAILED"
	case has("pass"):
		return "withstood"
	case has("skip"):
		return "skipped"
	}
	return "untested"
}
