package main

import (
	_ "embed"
	"strings"
)

// exceptions.txt names the recorded exchanges that the simulator is known not
// to equal, one a line, with the reason.
//
//go:embed exceptions.txt
var exceptionText string

// exceptions are the reasons by the names of exchanges.
func exceptions() map[string]string {
	list := map[string]string{}
	for line := range strings.Lines(exceptionText) {
		name, reason, found := strings.Cut(strings.TrimSpace(line), " ")
		if found && !strings.HasPrefix(name, "#") {
			list[name] = strings.TrimSpace(reason)
		}
	}
	return list
}
