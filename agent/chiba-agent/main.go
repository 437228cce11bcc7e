// Command chiba-agent is `chiba agent` as a program of its own, for machines that
// are nothing else: it links neither Raft nor the coordinator, the simulator or the
// client, so that a rack's machine keeps half as much program in memory.
package main

import (
	"os"

	"github.com/chiba-mesh/chiba/agent"
	"github.com/chiba-mesh/chiba/pkg/cli"
)

func main() { os.Exit(cli.Main(agent.Program())) }
