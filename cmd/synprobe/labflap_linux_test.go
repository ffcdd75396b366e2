package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"synprobe/rawprobe/netlab"
)

// A flap is what befalls the client in the middle of a run and is over before its
// end, and what must be said of it: "" for nothing.
type flap struct {
	name string
	do   func(*testing.T, *netlab.Lab, netlab.Family)
	says string
}

func flaps() []flap {
	link := func(t *testing.T, l *netlab.Lab, name string) netlink.Link {
		t.Helper()
		k, err := l.Node("client").Netlink().LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	return []flap{
		{"interface", func(_ *testing.T, l *netlab.Lab, _ netlab.Family) {
			l.Node("client").LinkDown("eth0")
			l.Node("client").LinkUp("eth0")
		}, "interface eth0 went down and came back during the run"},
		{"carrier", func(t *testing.T, l *netlab.Lab, _ netlab.Family) {
			carrier := func() bool { return link(t, l, "eth0").Attrs().RawFlags&unix.IFF_LOWER_UP != 0 }
			l.Node("r1").LinkDown("eth0")
			eventually(t, "no carrier", func() bool { return !carrier() })
			l.Node("r1").LinkUp("eth0")
			eventually(t, "carrier", carrier)
		}, "interface eth0 lost its carrier and got it back during the run"},
		{"address", func(t *testing.T, l *netlab.Lab, f netlab.Family) {
			nl, k := l.Node("client").Netlink(), link(t, l, "eth0")
			addrs, err := nl.AddrList(k, netlink.FAMILY_ALL)
			must(t, err)
			for i := range addrs {
				if addrs[i].IP.String() == l.Addr("client", f).String() {
					must(t, nl.AddrDel(k, &addrs[i]))
				}
			}
			l.Node("client").LinkUp("eth0") // it has the address and the routes again
		}, " was removed and came back during the run"},
		{"route", func(_ *testing.T, l *netlab.Lab, _ netlab.Family) {
			l.Node("client").DelRoute("default")
			l.Node("client").AddRoute(netlab.Route{To: "default", Next: []string{"r1"}})
		}, " went away and came back during the run"},
		{"route replaced", func(_ *testing.T, l *netlab.Lab, _ netlab.Family) {
			l.Node("client").AddRoute(netlab.Route{To: "server", Type: netlab.Prohibit})
			l.Node("client").DelRoute("server")
		}, " changed and changed back during the run"},
		{"another interface", func(t *testing.T, l *netlab.Lab, f netlab.Family) {
			nl := l.Node("client").Netlink()
			must(t, nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other0"}, PeerName: "other1"}))
			address := map[netlab.Family]string{netlab.IPv4: "172.17.0.1/16", netlab.IPv6: "fd17::1/64"}[f]
			a, err := netlink.ParseAddr(address)
			must(t, err)
			for _, name := range []string{"other0", "other1"} {
				must(t, nl.LinkSetUp(link(t, l, name)))
			}
			must(t, nl.AddrAdd(link(t, l, "other0"), a))
			must(t, nl.LinkSetDown(link(t, l, "other0")))
			must(t, nl.LinkDel(link(t, l, "other0")))
		}, ""},
	}
}

// flapped runs the program, changes the client's network once a SYN has left, and
// returns the answer, whose capture must give the same.
func flapped(t *testing.T, lab *netlab.Lab, f netlab.Family, do func()) result {
	t.Helper()
	client := lab.Node("client")
	syn := lab.Node("r1").CountSYN(80)
	file := filepath.Join(t.TempDir(), "x.pcapng")
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	r := start(t, client, client.Command(ctx, binary(), "-n", "--json", "-w", file, lab.Addr("server", f).String(), "80"))
	eventually(t, "a SYN", func() bool { return syn.Packets() > 0 })
	do()
	out := r.wait(t)
	got := decode(t, out)
	if len(got) != 1 || got[0].Error != nil || out.Exit != exitCodes[got[0].Verdict] {
		t.Fatalf("exit %d\n%s%s", out.Exit, out.Stdout, out.Stderr)
	}
	sameAgain(t, file, out)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.Stdout, out.Stderr)
		}
	})
	return got[0]
}

// saysBack returns what the evidence says of something that came back, and by
// which rule.
func saysBack(r result) (rule, text string) {
	for _, e := range r.Evidence {
		if e.Rule == "changed" || strings.Contains(e.Text, " back during the run") {
			rule, text = e.Rule, e.Text
		}
	}
	return rule, text
}

// TestFlapUnderSilence: a firewall drops the SYN, which is certain where all else
// goes past it, and is not where this machine's own way was gone for a while.
func TestFlapUnderSilence(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	for _, c := range flaps() {
		for _, f := range both {
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				lab := netlab.Start(t, netlab.Chain(2).WithRules("r2", tcp80(netlab.Prerouting, netlab.Drop)))
				got := flapped(t, lab, f, func() { c.do(t, lab, f) })
				rule, text := saysBack(got)
				if c.says == "" {
					if rule != "" || got.Verdict != "drop" || got.Cause != "network-firewall" || got.Certainty != "certain" {
						t.Errorf("%s %s %s, %s: %q, want a certain drop", got.Verdict, got.Cause, got.Certainty, rule, text)
					}
					return
				}
				// A SYN that was to leave just then was refused: that is said
				// by another rule.
				if got.Certainty == "certain" || !strings.Contains(text, c.says) {
					t.Errorf("%s %s %s, %s: %q, want %q and no certainty", got.Verdict, got.Cause, got.Certainty, rule, text, c.says)
				}
			})
		}
	}
}

// TestFlapBeforeAnswer: what came back in time for an answer from outside takes
// nothing from it, but is told.
func TestFlapBeforeAnswer(t *testing.T) {
	netlab.Require(t)
	t.Parallel()
	for _, c := range flaps() {
		for _, f := range both {
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				lab := netlab.Start(t, netlab.Chain(1))
				server := lab.Node("server")
				server.Die()
				got := flapped(t, lab, f, func() {
					c.do(t, lab, f)
					server.Revive()
				})
				rule, text := saysBack(got)
				if got.Verdict != "open" || got.Cause != "listening" || got.Certainty != "certain" {
					t.Errorf("%s %s %s, want open listening certain", got.Verdict, got.Cause, got.Certainty)
				}
				if c.says == "" && rule != "" || c.says != "" && (rule != "changed" || !strings.Contains(text, c.says)) {
					t.Errorf("%s: %q, want %q", rule, text, c.says)
				}
			})
		}
	}
}

// TestFlapWithLeastPrivilege: to be told needs no capability, and the program has
// none any more when it reads what it was told.
func TestFlapWithLeastPrivilege(t *testing.T) {
	netlab.Require(t)
	needsUsers(t)
	t.Parallel()
	path, err := capable()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range both {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			lab := netlab.Start(t, netlab.Chain(1).WithRules("server", tcp80(netlab.Input, netlab.Drop)))
			client, syn := lab.Node("client"), lab.Node("r1").CountSYN(80)
			ctx, cancel := context.WithTimeout(t.Context(), hang)
			defer cancel()
			cmd := surrounding{User: nobody}.command(t, ctx, client, path, "-n", "--json", lab.Addr("server", f).String(), "80")
			r := start(t, client, cmd)
			eventually(t, "a SYN", func() bool { return syn.Packets() > 0 })
			client.LinkDown("eth0")
			client.LinkUp("eth0")
			out := r.wait(t)
			got := decode(t, out)
			if len(got) != 1 || got[0].Error != nil {
				t.Fatalf("exit %d\n%s%s", out.Exit, out.Stdout, out.Stderr)
			}
			if _, text := saysBack(got[0]); !strings.Contains(text, "interface eth0 went down and came back during the run") || got[0].Certainty == "certain" {
				t.Errorf("%q and %s\n%s", text, got[0].Certainty, out.Stdout)
			}
		})
	}
}
