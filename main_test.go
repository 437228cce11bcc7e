package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Two commands of one name: whoever types it reaches the first, and nobody is told.
func TestEveryCommandHasANameOfItsOwn(t *testing.T) {
	walk(command(), func(cmd *cobra.Command) {
		taken := map[string]string{}
		for _, sub := range cmd.Commands() {
			for _, name := range append([]string{sub.Name()}, sub.Aliases...) {
				if other, ok := taken[name]; ok {
					t.Errorf("%s %s is %q and also %q", cmd.CommandPath(), name, other, sub.Short)
				}
				taken[name] = sub.Short
			}
		}
	})
}

func TestEveryCommandHasAnExampleThatNamesIt(t *testing.T) {
	walk(command(), func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" || (cmd.HasParent() && cmd.Parent().Name() == "completion") {
			return // cobra's own
		}
		if !strings.Contains(cmd.Example, strings.TrimSpace(cmd.CommandPath())) {
			t.Errorf("%s: no example of it: %q", cmd.CommandPath(), cmd.Example)
		}
	})
}

// Help is read in a terminal beside other things. Examples are to be copied, and are
// as long as they are.
func TestHelpFitsAScreen(t *testing.T) {
	const most = 100
	walk(command(), func(cmd *cobra.Command) {
		usage := strings.ReplaceAll(cmd.UsageString(), cmd.Example, "")
		for line := range strings.Lines(cmd.Long + "\n" + usage) {
			if line = strings.TrimRight(line, "\n"); len([]rune(line)) > most && !strings.Contains(line, cmd.UseLine()) {
				t.Errorf("%s --help: a line of %d: %s", cmd.CommandPath(), len([]rune(line)), line)
			}
		}
	})
}

// What an example types is there: each `chiba …` line of each example finds a
// command whose flags are those it has.
func TestExamplesNameCommandsAndFlagsThatExist(t *testing.T) {
	walk(command(), func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			words := typed(line)
			if len(words) == 0 {
				continue
			}
			root := command()
			found, rest, err := root.Find(words)
			if err != nil || found == root && !strings.HasPrefix(words[0], "-") {
				t.Errorf("example of %s: %q is no command: %v", cmd.CommandPath(), strings.TrimSpace(line), err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("example of %s: %q: %v", cmd.CommandPath(), strings.TrimSpace(line), err)
			}
		}
	})
}

// typed are the words behind the first `chiba` of an example's line.
func typed(line string) []string {
	line, _, _ = strings.Cut(line, "   #")
	_, line, ok := strings.Cut(" "+strings.TrimSpace(line), " chiba ")
	if !ok {
		return nil
	}
	for _, end := range []string{" && ", " | ", " > "} {
		line, _, _ = strings.Cut(line, end)
	}
	return words(line)
}

// words splits as a shell does that knows nothing but single quotes.
func words(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, visit)
	}
}

// A decision is cited by its number.
func TestDecisionsHaveNumbersOfTheirOwn(t *testing.T) {
	pages, err := filepath.Glob("docs/decisions/[0-9]*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no decisions: %v", err)
	}
	taken := map[string]string{}
	for _, page := range pages {
		number, _, _ := strings.Cut(filepath.Base(page), "-")
		if other, ok := taken[number]; ok {
			t.Errorf("%s has the number of %s", page, other)
		}
		taken[number] = page
		text, err := os.ReadFile(page)
		if heading := "# " + strings.TrimLeft(number, "0") + ". "; err != nil || !strings.HasPrefix(string(text), heading) {
			t.Errorf("%s does not begin with %q: %v", page, heading, err)
		}
	}
}
