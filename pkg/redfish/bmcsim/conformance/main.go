// Command conformance replays recorded exchanges with a real OpenBMC against
// the simulator, over real TLS, and tells how many the simulator equals:
// status, headers and the shape of the body, messages word for word.
//
//	conformance [-v] [-only GROUP] DIRECTORY-OR-TAR.GZ
//
// Each group of exchanges is played in its order on a BMC of its own, brought
// into the state the recording needs: accounts, sessions, and certificates
// made anew for every recorded one. Exchanges that differ must be listed with
// a reason in exceptions.txt; they count as not equal. The last line of the
// output is "conformance: EQUAL of TOTAL".
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
)

// enough is the share of exchanges that must be equal.
const enough = 0.98

func main() {
	verbose := flag.Bool("v", false, "show what differs in listed exceptions too")
	only := flag.String("only", "", "play only groups with this prefix")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	passed, err := run(ctx, os.Stdout, options{source: flag.Arg(0), only: *only, verbose: *verbose})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
	}
	if !passed {
		os.Exit(1)
	}
}

type options struct {
	source  string
	only    string // prefix of the groups to play, "" for all
	verbose bool
}

// run plays all recordings and prints the report. It passes if enough are
// equal and every other one is explained.
func run(ctx context.Context, out io.Writer, o options) (passed bool, err error) {
	list, other, err := load(o.source)
	if err != nil {
		return false, fmt.Errorf("load the recordings: %w", err)
	}
	known, equal, total, unexplained := exceptions(), 0, 0, 0
	for _, g := range plan(list, o.only) {
		results, err := play(ctx, g)
		if err != nil {
			return false, fmt.Errorf("play %s: %w", g.name, err)
		}
		same := 0
		for _, r := range results {
			reason, listed := known[r.name]
			switch {
			case r.diff == "" && listed:
				fmt.Fprintf(out, "%s is equal, but listed as an exception\n", r.name)
				fallthrough
			case r.diff == "":
				same++
			case listed && o.verbose:
				fmt.Fprintf(out, "%s (%s)\n%s\n", r.name, reason, r.diff)
			case listed:
				fmt.Fprintf(out, "%s: %s\n", r.name, reason)
			default:
				unexplained++
				fmt.Fprintf(out, "%s differs: %s %s\n%s\n", r.name, r.method, r.path, r.diff)
			}
		}
		fmt.Fprintf(out, "%-40s %3d of %3d\n", g.name, same, len(results))
		equal, total = equal+same, total+len(results)
	}
	explained, failed := beside(ctx, out, other, o)
	if failed != nil {
		return false, failed
	}
	fmt.Fprintf(out, "conformance: %d of %d\n", equal, total)
	return explained && unexplained == 0 && float64(equal) >= enough*float64(total), nil
}

// beside tells what becomes of the files that hold no exchange.
func beside(ctx context.Context, out io.Writer, other map[string][]byte, o options) (explained bool, err error) {
	explained = true
	if o.only == "" {
		if explained, err = playRaw(ctx, out, other); err != nil {
			return false, fmt.Errorf("play the raw connections: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(other)) {
		if why := besides(name); why != "" {
			fmt.Fprintf(out, "not replayed: %s: %s\n", name, why)
		}
	}
	return explained, nil
}

// besides is why a file is not replayed, "" if it is.
func besides(name string) string {
	switch name {
	case rawFile, websocketFile, timeoutsFile:
		return ""
	}
	for _, kind := range []struct{ part, why string }{
		{"K_open_", "what is seen on open connections while something changes; the exchanges of K_open and G_mtls are replayed"},
		{"K_resumed_", "a TLS session that was resumed after a change; the exchanges of G_mtls are replayed"},
		{"_persistent_data", "the BMC's own file; what a client sees of it is in K_persist, which is replayed"},
		{"_sse", "a dump of an event stream, which is no exchange"},
		{"_events_", "what a listener of events got, which is no exchange"},
		{"_tls_", "a dump of a handshake; the exchanges of G_certs and G_mtls are replayed"},
		{"_s_client_", "a dump of a handshake; the exchanges of G_strict are replayed"},
		{"_http2_", "made over HTTP/2; the same exchanges over HTTP/1.1 are replayed"},
		{"_power_trail", "a poll of power states of the mock behind the recording"},
		{"_timings", "how long the recording machine took"},
		{".md", "notes"},
	} {
		if strings.Contains(name, kind.part) {
			return kind.why
		}
	}
	return "nobody knows what it is"
}
