// Command synprobe says what happens to a TCP connection attempt, who does it,
// and which packets prove it. See synprobe --help.
package main

import (
	"os"

	"synprobe/cmd/synprobe/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args))
}
