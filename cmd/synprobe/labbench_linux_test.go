package main

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"synprobe/rawprobe/netlab"
)

// The benchmarks time the whole process from start to exit, in turn with nmap
// on the same port of the same lab. What counts is the ratio, the median of
// those of the pairs; the bar is a quarter:
//
//	go test -run '^$' -bench Port -benchtime 25x ./cmd/synprobe

func BenchmarkOpenPort(b *testing.B)   { againstNmap(b, "80", "open", 0) }
func BenchmarkClosedPort(b *testing.B) { againstNmap(b, "81", "closed", 1) }

func againstNmap(b *testing.B, port, state string, exit int) {
	netlab.Require(b)
	nmap, err := exec.LookPath("nmap")
	if err != nil {
		b.Skip("NOT MEASURED: there is no nmap here to compare with")
	}
	lab := netlab.Start(b, netlab.Chain(1))
	client := lab.Node("client")
	server := lab.Addr("server", netlab.IPv4).String()
	binary()

	ours := func() time.Duration {
		out := shell(b, client, server, port)
		if out.Exit != exit {
			b.Fatalf("synprobe: exit %d, want %d\n%s%s", out.Exit, exit, out.Stdout, out.Stderr)
		}
		return out.Elapsed
	}
	theirs := func() time.Duration {
		ctx, cancel := context.WithTimeout(b.Context(), hang)
		defer cancel()
		out, err := client.Run(client.Command(ctx, nmap, "-n", "-Pn", "-sS", "-p", port, server))
		if err != nil {
			b.Fatal(err)
		}
		if out.Exit != 0 || !strings.Contains(out.Stdout, port+"/tcp "+state) {
			b.Fatalf("nmap: exit %d, and not %s\n%s%s", out.Exit, state, out.Stdout, out.Stderr)
		}
		return out.Elapsed
	}
	// The first of each loads the file from the disk.
	ours()
	theirs()
	var us, them, ratio []float64
	for b.Loop() {
		var a, n time.Duration
		if len(us)%2 == 0 { // neither always comes first
			a, n = ours(), theirs()
		} else {
			n, a = theirs(), ours()
		}
		us = append(us, a.Seconds()*1e3)
		them = append(them, n.Seconds()*1e3)
		ratio = append(ratio, a.Seconds()/n.Seconds())
	}
	b.ReportMetric(0, "ns/op") // of both programs together: it means nothing
	b.ReportMetric(median(us), "ms/synprobe")
	b.ReportMetric(median(them), "ms/nmap")
	b.ReportMetric(median(ratio), "synprobe/nmap")
}

func median(v []float64) float64 {
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
