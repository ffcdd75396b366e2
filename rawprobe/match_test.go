package rawprobe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket/layers"

	"synprobe/pcap"
	"synprobe/rawprobe/wire"
)

// short is a run that sends one SYN and one echo and listens for a second.
var short = Options{Tries: 1, Timeout: time.Second}

// told writes what a run believed and what it did not, in one line: each reply
// with the kind and try of the probe that it was booked under, a "?" where it
// did not name that probe, then the counters that are not zero.
func told(o *Observations) string {
	var words []string
	for i := range o.Replies {
		a := &o.Replies[i]
		s := &o.Sent[a.Probe]
		w := fmt.Sprintf("%s(%s %d", a.Kind, s.Kind, s.Try)
		if !a.Exact {
			w += "?"
		}
		words = append(words, w+")")
	}
	for _, c := range []struct {
		name string
		n    int
	}{
		{"unprovoked", o.Ignored.Unprovoked}, {"malformed", o.Ignored.Malformed},
		{"duplicates", o.Ignored.Duplicates}, {"own-resets", o.OwnResets},
	} {
		if c.n > 0 {
			words = append(words, fmt.Sprintf("%s=%d", c.name, c.n))
		}
	}
	return strings.Join(words, " ")
}

// Each answer to the SYN is believed or not, and counted.
func TestMatchSYN(t *testing.T) {
	seg := func(base func(probe) segment, edit func(p probe, g *segment)) func(network, probe) []answer {
		return func(_ network, p probe) []answer {
			return []answer{base(p).with(func(g *segment) { edit(p, g) }).after(20 * ms)}
		}
	}
	as := func(base func(probe) segment) func(network, probe) []answer {
		return seg(base, func(probe, *segment) {})
	}
	const synAck, reset, nothing = "syn-ack(subject 1)", "reset(subject 1)", ""
	for _, c := range []struct {
		name    string
		answers func(n network, p probe) []answer
		want    string
	}{
		{"syn-ack", as(probe.synAck), synAck},
		{"reset", as(probe.reset), reset},
		{"without options", seg(probe.synAck, func(_ probe, g *segment) { g.options = false }), synAck},
		{"with payload flags", seg(probe.synAck, func(_ probe, g *segment) { g.flags = "SAP" }), synAck},
		{"acks the ISN", seg(probe.synAck, func(p probe, g *segment) { g.ack = p.isn }), "unprovoked=1"},
		{"acks the ISN+2", seg(probe.synAck, func(p probe, g *segment) { g.ack = p.isn + 2 }), "unprovoked=1"},
		{"reset acks the ISN", seg(probe.reset, func(p probe, g *segment) { g.ack = p.isn }), "unprovoked=1"},
		{"reset acks the ISN+2", seg(probe.reset, func(p probe, g *segment) { g.ack = p.isn + 2 }), "unprovoked=1"},
		{"reset with our sequence", seg(probe.reset, func(p probe, g *segment) { g.flags, g.seq = "R", p.isn+1 }), nothing},
		{"reset without ACK", seg(probe.reset, func(_ probe, g *segment) { g.flags = "R" }), "unprovoked=1"},
		{"SYN without ACK", seg(probe.synAck, func(_ probe, g *segment) { g.flags = "S" }), nothing},
		{"bare ACK", seg(probe.synAck, func(_ probe, g *segment) { g.flags = "A" }), "unprovoked=1"},
		{"challenge ACK", seg(probe.synAck, func(_ probe, g *segment) { g.flags, g.ack = "A", g.ack-7 }), "challenge-ack(subject 1)"},
		{"FIN", seg(probe.synAck, func(_ probe, g *segment) { g.flags = "F" }), "unprovoked=1"},
		{"no flags", seg(probe.synAck, func(_ probe, g *segment) { g.flags = "" }), "unprovoked=1"},
		{"from another port", seg(probe.synAck, func(_ probe, g *segment) { g.sport++ }), "unprovoked=1"},
		{"to another port", seg(probe.synAck, func(_ probe, g *segment) { g.dport++ }), "unprovoked=1"},
		{"ports swapped", seg(probe.synAck, func(_ probe, g *segment) { g.sport, g.dport = g.dport, g.sport }), "unprovoked=1"},
		{"challenge from another port", seg(probe.synAck, func(_ probe, g *segment) { g.flags, g.ack, g.sport = "A", g.ack-7, g.sport+1 }), "unprovoked=1"},
		{"from another address", func(n network, p probe) []answer {
			return []answer{p.synAck().with(func(g *segment) { g.src = n.elsewhere }).after(20 * ms)}
		}, "unprovoked=1"},
		{"to another address", func(n network, p probe) []answer {
			return []answer{p.synAck().with(func(g *segment) { g.dst = n.elsewhere }).after(20 * ms)}
		}, "unprovoked=1"},
		{"wrong checksum", func(_ network, p probe) []answer {
			return []answer{p.synAck().after(20 * ms).eaten().edit(func(ev *Event) { ev.Data[len(ev.Data)-1] ^= 1 })}
		}, "malformed=1"},
		{"partial checksum", func(_ network, p probe) []answer {
			return []answer{p.synAck().after(20 * ms).edit(func(ev *Event) {
				ev.Data[len(ev.Data)-1] ^= 1
				ev.ChecksumPartial = true
			})}
		}, synAck},
		{"cut in the header", func(_ network, p probe) []answer {
			return []answer{p.synAck().after(20 * ms).eaten().edit(func(ev *Event) { ev.Data = ev.Data[:30] })}
		}, "malformed=1"},
		{"no packet", func(_ network, p probe) []answer {
			return []answer{p.synAck().after(20 * ms).eaten().edit(func(ev *Event) { ev.Data = []byte{0x45} })}
		}, "malformed=1"},
		{"of another host's", func(_ network, p probe) []answer {
			return []answer{p.synAck().after(20 * ms).eaten().edit(func(ev *Event) { ev.Direction = pcap.OtherHost })}
		}, nothing},
		{"of no direction", func(_ network, p probe) []answer {
			return []answer{p.synAck().after(20 * ms).eaten().edit(func(ev *Event) { ev.Direction = pcap.Unknown })}
		}, nothing},
		{"outgoing", func(_ network, p probe) []answer {
			return []answer{p.synAck().after(20 * ms).eaten().edit(func(ev *Event) { ev.Direction = pcap.Outgoing })}
		}, nothing},
		{"twice within 2 ms", func(_ network, p probe) []answer {
			return []answer{p.synAck().after(20 * ms), p.synAck().after(22 * ms).eaten()}
		}, synAck + " duplicates=1"},
		{"and a reset", func(_ network, p probe) []answer { // a device's and the host's
			return []answer{p.synAck().after(20 * ms), p.reset().after(21 * ms)}
		}, synAck + " " + reset},
		{"from two distances", func(_ network, p probe) []answer {
			return []answer{p.reset().after(20 * ms), p.reset().with(func(g *segment) { g.ttl = 50 }).after(21 * ms)}
		}, reset + " " + reset},
		{"own SYN on loopback", func(_ network, p probe) []answer {
			return []answer{packetAnswer(p.raw, p.src, true, false).after(20 * ms).looped()}
		}, nothing},
		{"own reset on loopback", func(_ network, p probe) []answer {
			return []answer{
				p.synAck().after(20 * ms).looped(), p.ownReset().after(21 * ms),
				p.ownReset().after(21 * ms).edit(func(ev *Event) { ev.Direction = pcap.Incoming }).looped(),
			}
		}, synAck + " own-resets=1"},
		{"another's reset leaves", func(_ network, p probe) []answer {
			return []answer{p.ownReset().after(21 * ms).edit(func(ev *Event) {
				binary.BigEndian.PutUint16(ev.Data[len(ev.Data)-20:], p.sport+1)
			})}
		}, nothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				_, o := play(t, n, short, func(s *script) {
					s.syn = func(p probe) []answer { return c.answers(n, p) }
					// Late enough for all of the table's answers to be in.
					s.echo = answers(40*ms, probe.echoReply)
				})
				got := strings.TrimSpace(strings.Replace(told(o), "echo-reply(icmp-echo 1)", "", 1))
				if got = strings.Join(strings.Fields(got), " "); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

// What the IP stack discards is no answer, though the tap shows it. A capture
// that kept less of a packet than there was is another matter.
func TestDamagedPackets(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(ev *Event)
		want string
	}{
		{"whole", func(*Event) {}, "syn-ack(subject 1)"},
		{"options cut", func(ev *Event) { ev.Data = ev.Data[:len(ev.Data)-1] }, "malformed=1"},
		{"kept in part", func(ev *Event) {
			at := ipv4HeaderLen
			if ev.Data[0]>>4 == 6 {
				at = ipv6HeaderLen
			}
			ev.Data, ev.Cut = ev.Data[:at+20], true
			ev.Data[at+12] = 5 << 4 // a header without the options
		}, "syn-ack(subject 1)"},
		{"another hop limit", func(ev *Event) {
			if ev.Data[0]>>4 == 4 {
				ev.Data[8]--
			} else {
				ev.Data[4]++ // nothing guards the limit: the length
			}
		}, "malformed=1"},
		{"a first fragment", func(ev *Event) {
			if ev.Data[0]>>4 == 4 {
				ev.Data[6] |= ipv4MoreFragments
				binary.BigEndian.PutUint16(ev.Data[10:], 0)
				binary.BigEndian.PutUint16(ev.Data[10:], wire.Checksum(ev.Data[:ipv4HeaderLen], 0))
				return
			}
			rest := append([]byte{ev.Data[6], 0, 0, 1, 0, 0, 0, 7}, ev.Data[ipv6HeaderLen:]...)
			ev.Data = append(ev.Data[:ipv6HeaderLen:ipv6HeaderLen], rest...)
			ev.Data[5] += 8
			ev.Data[6] = 44
		}, "malformed=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				_, o := play(t, n, short, func(s *script) {
					s.syn = func(p probe) []answer { return []answer{p.synAck().after(20 * ms).edit(c.edit)} }
				})
				if got := told(o); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

// An answer that comes again and again is recorded a few times, and took as long
// as the first did.
func TestCopies(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		_, o := play(t, n, short, func(s *script) {
			s.echo = func(p probe) (all []answer) {
				for i := range time.Duration(100) {
					all = append(all, p.echoReply().after(20*ms+i*5*ms))
				}
				return all
			}
		})
		if len(o.Replies) != maxCopies || o.Ignored.Duplicates != 100-maxCopies || o.Ignored.Excess != 0 {
			t.Errorf("%d recorded, %+v", len(o.Replies), o.Ignored)
		}
		for i := range o.Replies {
			if want := map[bool]time.Duration{true: 20 * ms}[i == 0]; o.Replies[i].RTT != want {
				t.Errorf("copy %d took %v, want %v", i, o.Replies[i].RTT, want)
			}
		}
	})
}

// Sockets get the segments of others that acknowledge our number by chance, or
// by intent. They must not take the place of what is read before the tap's copy.
func TestStrangersCrowd(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		_, o := play(t, n, short, func(s *script) {
			s.syn = func(p probe) (all []answer) {
				for i := range uint32(maxEarly + 10) {
					all = append(all, p.synAck().with(func(g *segment) { g.sport++; g.seq += i }).after(10*ms).early())
				}
				return append(all, p.reset().after(20*ms).early())
			}
		})
		if len(o.Replies) != 1 || o.Replies[0].Kind != Reset || !o.Replies[0].Delivered {
			t.Errorf("got %s, %+v", told(o), o.Replies)
		}
	})
}

// The same packet a moment later than a copy could come is another answer.
func TestDuplicateWindow(t *testing.T) {
	for gap, want := range map[time.Duration]string{
		2 * ms: "syn-ack(subject 1) duplicates=1", 2*ms + 1: "syn-ack(subject 1) syn-ack(subject 1)",
	} {
		_, o := play(t, net4, short, func(s *script) {
			s.syn = func(p probe) []answer {
				return []answer{p.synAck().after(20 * ms), p.synAck().after(20*ms + gap).eaten()}
			}
		})
		if got := told(o); got != want {
			t.Errorf("%v apart: got %q, want %q", gap, got, want)
		}
	}
}

// The numbers of a run are known before it sends: an answer then is forged.
func TestAnswerBeforeProbe(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		_, o := play(t, n, short, func(s *script) {
			s.machine.Route.ByPort = true // the subject waits for the next hop
			s.ask = func(int) []answer {
				p := probe{
					net: n, src: n.us, dst: n.host, sport: heldSrc, dport: port, isn: s.interest.ISN,
					echoID: s.interest.EchoID, data: binary.BigEndian.AppendUint32(nil, s.interest.EchoCookie),
				}
				p.raw = p.synAck().with(func(g *segment) {
					g.src, g.dst, g.sport, g.dport, g.seq, g.flags = g.dst, g.src, g.dport, g.sport, p.isn, "S"
				}).packet()
				return []answer{
					p.synAck().after(1 * ms), p.reset().after(2 * ms), p.echoReply().after(3 * ms),
					p.icmp(n.router, n.unreachable, n.admin).after(4 * ms), neighbourAnswer(n).after(50 * ms),
				}
			}
		})
		if got := told(o); got != "unprovoked=4" {
			t.Errorf("got %q", got)
		}
	})
}

// An ICMP error is believed where it quotes what identifies our packet.
func TestMatchQuote(t *testing.T) {
	const yes, no = "icmp-error(subject 1)", "unprovoked=1"
	for _, c := range []struct {
		name string
		edit func(n network, e icmpError) icmpError
		want string
	}{
		{"whole", func(_ network, e icmpError) icmpError { return e }, yes},
		{"8 bytes", func(_ network, e icmpError) icmpError { return e.cut(8) }, yes},
		{"7 bytes", func(_ network, e icmpError) icmpError { return e.cut(7) }, no},
		{"no transport", func(_ network, e icmpError) icmpError { return e.cut(0) }, no},
		{"cut header", func(_ network, e icmpError) icmpError { return e.cut(-1) }, "malformed=1"},
		{"wrong sequence", func(_ network, e icmpError) icmpError {
			return e.quoted(func(q []byte) { q[e.header()+7]++ })
		}, no},
		{"source port translated", func(_ network, e icmpError) icmpError {
			return e.quoted(func(q []byte) { q[e.header()]++ })
		}, yes},
		{"source translated", func(n network, e icmpError) icmpError {
			return e.quoted(func(q []byte) { copy(q[e.header()-2*len(n.us.AsSlice()):], n.translated.AsSlice()) })
		}, yes},
		{"destination translated", func(n network, e icmpError) icmpError {
			return e.quoted(func(q []byte) { copy(q[e.header()-len(n.us.AsSlice()):], n.translated.AsSlice()) })
		}, yes},
		{"destination and source port translated", func(n network, e icmpError) icmpError {
			return e.quoted(func(q []byte) {
				copy(q[e.header()-len(n.us.AsSlice()):], n.translated.AsSlice())
				q[e.header()]++
			})
		}, no},
		{"both ports another's", func(_ network, e icmpError) icmpError {
			return e.quoted(func(q []byte) { q[e.header()]++; q[e.header()+2]++ })
		}, no},
		{"another protocol", func(n network, e icmpError) icmpError {
			return e.quoted(func(q []byte) {
				if n.us.Is4() {
					q[9] = 17
				} else {
					q[6] = 17
				}
			})
		}, no},
		{"another family", func(_ network, e icmpError) icmpError {
			return e.quoted(func(q []byte) { q[0] = q[0]&15 | (10-q[0]>>4)<<4 })
		}, "malformed=1"},
		{"a later fragment", func(n network, e icmpError) icmpError {
			return e.quoted(func(q []byte) {
				if n.us.Is4() {
					q[6], q[7] = 0, 9
				} else { // has no such field; take the sequence away
					q[e.header()+4]++
				}
			})
		}, no},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				_, o := play(t, n, short, func(s *script) {
					s.syn = func(p probe) []answer {
						return []answer{c.edit(n, p.icmp(n.router, n.unreachable, n.admin)).after(20 * ms)}
					}
				})
				if got := told(o); got != c.want {
					t.Fatalf("got %q, want %q", got, c.want)
				}
				if len(o.Replies) == 0 {
					return
				}
				a, want := o.Replies[0], o.Target
				if c.name == "destination translated" {
					want = netip.AddrPortFrom(n.translated, port)
				}
				if a.From != n.router || a.Type != int(n.unreachable) || a.Code != int(n.admin) || a.QuotedDst != want || a.QuotedTTL != 1 || !a.Delivered {
					t.Errorf("got %+v, quoted destination %v wanted", a, want)
				}
			})
		})
	}
}

// An error whose quote has another source port, for a translator did not put it
// right, is that flow's whose probe it names, though several go to one port.
func TestQuoteOfWhichFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		_, o := play(t, n, Options{}, func(s *script) {
			s.echo = answers(25*ms, probe.echoReply)
			s.syn = func(p probe) []answer {
				e := p.icmp(n.router, n.unreachable, n.noRoute)
				return []answer{e.quoted(func(q []byte) { q[e.header()] ^= 0x80 }).after(20 * ms)}
			}
		})
		if len(o.Sent) != 2+otherFlows || len(o.Replies) != len(o.Sent) {
			t.Fatalf("%d sent, %s", len(o.Sent), told(o))
		}
		booked := make(map[int]bool)
		for _, a := range o.Replies {
			booked[a.Probe] = a.Exact
		}
		for i := range o.Sent {
			if !booked[i] {
				t.Errorf("probe %d, %s, has no answer of its own: %s", i, o.Sent[i].Kind, told(o))
			}
		}
	})
}

// An error about a control ACK is believed as one about a SYN is, though its quote
// has another source port.
func TestQuotedACK(t *testing.T) {
	for _, n := range networks {
		for _, c := range []struct {
			name string
			edit func(e icmpError) icmpError
			want string
		}{
			{"whole", func(e icmpError) icmpError { return e }, "icmp-error(tcp-ack 1)"},
			{"source port translated", func(e icmpError) icmpError {
				return e.quoted(func(q []byte) { q[e.header()] ^= 0x80 })
			}, "icmp-error(tcp-ack 1)"},
			{"destination translated", func(e icmpError) icmpError {
				return e.quoted(func(q []byte) { q[e.header()-1]++ })
			}, "icmp-error(tcp-ack 1)"},
			{"both translated", func(e icmpError) icmpError {
				return e.quoted(func(q []byte) { q[e.header()] ^= 0x80; q[e.header()-1]++ })
			}, "unprovoked=1"},
			{"another acknowledgement", func(e icmpError) icmpError {
				return e.quoted(func(q []byte) { q[e.header()+8]++ })
			}, "unprovoked=1"},
			{"another sequence number", func(e icmpError) icmpError {
				return e.quoted(func(q []byte) { q[e.header()+4]++ })
			}, "unprovoked=1"},
		} {
			r, s := fuzzRun(t, n)
			if err := r.SendACK(3); err != nil {
				t.Fatal(err)
			}
			ack := s.probes[len(s.probes)-1]
			a := c.edit(ack.icmp(n.router, n.expired, 0)).answer()
			a.events[0].Time = time.Now()
			r.handle(a.events[0], time.Now())
			if got := told(r.obs); got != c.want {
				t.Errorf("%s, %s: got %q, want %q", n.name, c.name, got, c.want)
			}
		}
	}
}

// Several tries are told apart by what each of them carried.
func TestWhichTry(t *testing.T) {
	icmpOf := func(edit func(q []byte)) func(n network, p probe) answer {
		return func(n network, p probe) answer {
			return p.icmp(n.router, n.unreachable, n.admin).quoted(edit).after(1300 * ms)
		}
	}
	for _, c := range []struct {
		name         string
		late         func(n network, p probe) answer
		want4, want6 string
	}{
		{"TSecr", func(_ network, p probe) answer { return p.synAck().after(1300 * ms) }, "syn-ack(subject 1)", "syn-ack(subject 1)"},
		{"unknown TSecr", func(_ network, p probe) answer {
			return p.synAck().with(func(g *segment) { g.tsecr = 1 }).after(1300 * ms)
		}, "syn-ack(subject 3?)", "syn-ack(subject 3?)"},
		{"reset", func(_ network, p probe) answer { return p.reset().after(1300 * ms) }, "reset(subject 3?)", "reset(subject 3?)"},
		{"quote", icmpOf(func([]byte) {}), "icmp-error(subject 1)", "icmp-error(subject 1)"},
		{"quote of 8 bytes", func(n network, p probe) answer {
			return p.icmp(n.router, n.unreachable, n.admin).cut(8).after(1300 * ms)
		}, "icmp-error(subject 1)", "icmp-error(subject 3?)"}, // IPv6 has no ID
		{"swapped ID, 8 bytes", func(n network, p probe) answer {
			return p.icmp(n.router, n.unreachable, n.admin).quoted(func(q []byte) { q[4], q[5] = q[5], q[4] }).cut(8).after(1300 * ms)
		}, "icmp-error(subject 1)", ""},
		{"zeroed ID", icmpOf(func(q []byte) { q[4], q[5] = 0, 0 }), "icmp-error(subject 1)", ""},
		{"zeroed ID, 8 bytes", func(n network, p probe) answer {
			return p.icmp(n.router, n.unreachable, n.admin).quoted(func(q []byte) { q[4], q[5] = 0, 0 }).cut(8).after(1300 * ms)
		}, "icmp-error(subject 3?)", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				want := map[bool]string{true: c.want4, false: c.want6}[n.us.Is4()]
				if want == "" {
					return // IPv4 alone has that field
				}
				_, o := play(t, n, Options{}, func(s *script) {
					s.syn = func(p probe) []answer {
						if p.n != 1 {
							return nil
						}
						return []answer{c.late(n, p)}
					}
				})
				if got := told(o); got != want {
					t.Fatalf("got %q, want %q", got, want)
				}
				// A SYN-ACK may be the host's second, with the first one lost.
				// What names no try may be any one's.
				rtt := time.Duration(0)
				if r := o.Replies[0]; r.Exact && r.Kind != SynAck {
					rtt = 1300 * ms
				}
				if o.Replies[0].RTT != rtt {
					t.Errorf("the round trip was %v, want %v", o.Replies[0].RTT, rtt)
				}
			})
		})
	}
}

// An answer that names no try is the last one's only where a way as long as to
// another is out of the question: by the echo's time.
func TestTimeOfWhich(t *testing.T) {
	for _, c := range []struct {
		name  string
		far   time.Duration // to the host and back
		lost  int           // as many SYNs
		rtt   time.Duration
		kind  func(probe) segment
		noTSs bool
	}{
		{"a reset to the first", 20 * ms, 0, 20 * ms, probe.reset, false},
		{"a reset to the second", 20 * ms, 1, 20 * ms, probe.reset, false},
		{"a reset to the third", 20 * ms, 2, 20 * ms, probe.reset, false},
		{"a reset to the first, after the second was sent", 700 * ms, 0, 0, probe.reset, false},
		{"a reset to the first, after the third was sent", 1300 * ms, 0, 0, probe.reset, false},
		{"a SYN-ACK to the first, after the second was sent", 700 * ms, 0, 700 * ms, probe.synAck, false},
		{"the same without a timestamp", 700 * ms, 0, 0, probe.synAck, true},
		{"a SYN-ACK without a timestamp to the second", 20 * ms, 1, 20 * ms, probe.synAck, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				_, o := play(t, n, Options{}, func(s *script) {
					s.syn = func(p probe) []answer {
						if p.n <= c.lost {
							return nil
						}
						return []answer{c.kind(p).with(func(g *segment) { g.options = g.options && !c.noTSs }).after(c.far)}
					}
					s.echo = answers(c.far, probe.echoReply)
				})
				for i := range o.Replies {
					if a := &o.Replies[i]; a.Kind != EchoReply {
						if a.RTT != c.rtt {
							t.Errorf("%v, want %v: %+v", a.RTT, c.rtt, a)
						}
						return
					}
				}
				t.Errorf("no answer: %s", told(o))
			})
		})
	}
}

// Echo replies have to come from the target with our identifier, sequence and
// cookie.
func TestMatchEcho(t *testing.T) {
	const yes, no = "echo-reply(icmp-echo 1)", "unprovoked=1"
	edit := func(f func(n network, e *echoReply)) func(network, probe) answer {
		return func(n network, p probe) answer {
			return p.echoReply().with(func(e *echoReply) { f(n, e) }).after(20 * ms)
		}
	}
	for _, c := range []struct {
		name   string
		answer func(network, probe) answer
		want   string
	}{
		{"right", edit(func(network, *echoReply) {}), yes},
		{"cookie alone left", edit(func(_ network, e *echoReply) { e.data = e.data[:4] }), yes},
		{"identifier", edit(func(_ network, e *echoReply) { e.id++ }), no},
		{"sequence", edit(func(_ network, e *echoReply) { e.seq++ }), no},
		{"cookie", edit(func(_ network, e *echoReply) { e.data = append([]byte{^e.data[0]}, e.data[1:]...) }), no},
		{"no data", edit(func(_ network, e *echoReply) { e.data = nil }), no},
		{"sender", edit(func(n network, e *echoReply) { e.from = n.elsewhere }), no},
		{"request", func(_ network, p probe) answer { return packetAnswer(p.raw, p.src, false, true).after(20 * ms) }, ""},
		{"error", func(n network, p probe) answer { return p.icmp(n.router, n.unreachable, n.admin).after(20 * ms) }, "icmp-error(icmp-echo 1)"},
		{"error, 8 bytes", func(n network, p probe) answer {
			return p.icmp(n.router, n.unreachable, n.admin).cut(8).after(20 * ms)
		}, "icmp-error(icmp-echo 1)"},
		{"error, 7 bytes", func(n network, p probe) answer {
			return p.icmp(n.router, n.unreachable, n.admin).cut(7).after(20 * ms)
		}, no},
		{"error, identifier", func(n network, p probe) answer {
			e := p.icmp(n.router, n.unreachable, n.admin)
			return e.quoted(func(q []byte) { q[e.header()+4]++ }).after(20 * ms)
		}, no},
		{"error, sequence", func(n network, p probe) answer {
			e := p.icmp(n.router, n.unreachable, n.admin)
			return e.quoted(func(q []byte) { q[e.header()+7]++ }).after(20 * ms)
		}, no},
		{"error, quotes a reply", func(n network, p probe) answer {
			e := p.icmp(n.router, n.unreachable, n.admin)
			return e.quoted(func(q []byte) { q[e.header()] = map[bool]byte{true: 0, false: 129}[n.us.Is4()] }).after(20 * ms)
		}, no},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				_, o := play(t, n, short, func(s *script) { s.echo = func(p probe) []answer { return []answer{c.answer(n, p)} } })
				if got := told(o); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		})
	}
}

// ICMP that is no error, as a redirect is none, is no answer to the probe that it
// quotes.
func TestNoError(t *testing.T) {
	for _, c := range []struct {
		n         network
		typ, code uint8
		want      string
	}{
		{net4, 4, 0, ""}, {net4, 5, 1, ""}, {net4, 13, 0, ""},
		{net4, 12, 0, "icmp-error(subject 1)"}, {net4, 3, 4, "icmp-error(subject 1)"},
		{net6, 2, 0, "icmp-error(subject 1)"}, {net6, 4, 1, "icmp-error(subject 1)"}, {net6, 134, 0, ""},
	} {
		_, o := play(t, c.n, short, func(s *script) {
			s.syn = func(p probe) []answer { return []answer{p.icmp(c.n.router, c.typ, c.code).after(20 * ms)} }
		})
		if got := told(o); got != c.want {
			t.Errorf("%s %d/%d: got %q, want %q", c.n.name, c.typ, c.code, got, c.want)
		}
	}
}

// TestExtensions: what a router says of itself is kept with its answer, which
// is good whatever that is.
func TestExtensions(t *testing.T) {
	label := []byte{0, 8, 1, 1, 0x05, 0xdc, 0xf7, 0x09} // 24015, traffic class 3, bottom, TTL 9
	name := append([]byte{0, 12, 2, 2, 8}, "eth0/1\x00"...)
	mpls, iface := []wire.MPLSLabel{{Label: 24015, TC: 3, Bottom: true, TTL: 9}}, []wire.InterfaceInfo{{Name: "eth0/1"}}
	for _, c := range []struct {
		name    string
		objects [][]byte
		want    wire.Extensions
	}{
		{"none", nil, wire.Extensions{}},
		{"both", [][]byte{label, name}, wire.Extensions{MPLS: mpls, Interfaces: iface}},
		{"the second is broken", [][]byte{label, {0, 8, 2, 2, 200, 'a', 'b', 'c'}}, wire.Extensions{MPLS: mpls}},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				_, o := play(t, n, short, func(s *script) {
					s.syn = func(p probe) []answer {
						e := p.icmp(n.router, 3, 13)
						if n.us.Is6() {
							e.typ, e.code = 1, 1
						}
						if c.objects != nil {
							e.quote = append(e.quote, make([]byte, 128-len(e.quote))...)
							e.quote = append(e.quote, 0x20, 0, 0, 0) // no checksum
						}
						for _, b := range c.objects {
							e.quote = append(e.quote, b...)
						}
						return []answer{e.after(20 * ms)}
					}
				})
				if got := told(o); got != "icmp-error(subject 1)" {
					t.Fatalf("got %q", got)
				}
				if got := o.Replies[0].Extensions; !reflect.DeepEqual(got, c.want) {
					t.Errorf("got %+v, want %+v", got, c.want)
				}
			})
		})
	}
}

// This machine's own translation: what leaves has other ends than what was
// sent, and answers on the tap come to those.
func TestLocalTranslation(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(n network, ip, upper []byte)
		flow  func(n network, f Flow) Flow
		echo  bool // the echo's ends differ too
		ident bool // and its identifier
	}{
		{"destination", func(n network, ip, upper []byte) { copy(ip[len(ip)-len(n.us.AsSlice()):], n.translated.AsSlice()) },
			func(n network, f Flow) Flow { f.Dst = netip.AddrPortFrom(n.translated, f.Dst.Port()); return f }, true, false},
		{"source", func(n network, ip, upper []byte) { copy(ip[len(ip)-2*len(n.us.AsSlice()):], n.translated.AsSlice()) },
			func(n network, f Flow) Flow { f.Src = netip.AddrPortFrom(n.translated, f.Src.Port()); return f }, true, false},
		{"source port, identifier", func(n network, ip, upper []byte) {
			if len(upper) == 64 { // the echo
				binary.BigEndian.PutUint16(upper[4:], 7777)
				return
			}
			binary.BigEndian.PutUint16(upper, 7777)
		}, func(_ network, f Flow) Flow { f.Src = netip.AddrPortFrom(f.Src.Addr(), 7777); return f }, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, n network) {
				_, o := play(t, n, short, func(s *script) {
					header := map[bool]int{true: 20, false: 40}[n.us.Is4()]
					s.leaves = func(raw []byte) { c.edit(n, raw[:header], raw[header:]) }
					// The socket's copy has the translation undone.
					s.syn = func(p probe) []answer {
						a := p.synAck().after(20 * ms)
						undone := p.synAck().with(func(g *segment) { g.dport = heldSrc }).answer()
						a.events[1] = undone.events[1]
						return []answer{a, p.icmp(n.router, n.unreachable, n.admin).after(30 * ms)}
					}
					s.echo = answers(25*ms, probe.echoReply)
				})
				if got := told(o); got != "syn-ack(subject 1) echo-reply(icmp-echo 1)" {
					t.Fatalf("got %q", got)
				}
				want := c.flow(n, o.Sent[0].Flow)
				if got, is := o.Sent[0].Translated(); got != want || !is {
					t.Errorf("the SYN left as %v, %t; want %v", got, is, want)
				}
				if _, is := o.Sent[1].Translated(); is != c.echo {
					t.Errorf("the echo is said to be translated: %t", is)
				}
				if id := o.Sent[1].Departed.EchoID; (id == 7777) != c.ident {
					t.Errorf("the echo left with identifier %d", id)
				}
				if !o.Replies[0].Delivered || o.Replies[0].RTT != 20*ms {
					t.Errorf("got %+v", o.Replies[0])
				}
			})
		})
	}
	// Without translation nothing is said to be translated.
	_, o := play(t, net4, short, func(s *script) { s.syn = answers(20*ms, probe.synAck) })
	for i := range o.Sent {
		if f, is := o.Sent[i].Translated(); is {
			t.Errorf("%+v is said to be translated to %v", o.Sent[i].Flow, f)
		}
	}
	// An answer may also come as if nothing had been translated: this
	// machine's own firewall makes it before that.
	_, o = play(t, net4, short, func(s *script) {
		s.leaves = func(raw []byte) { copy(raw[16:], net4.translated.AsSlice()) }
		s.syn = func(p probe) []answer {
			return []answer{p.reset().with(func(g *segment) { g.src = net4.host }).after(1 * ms).looped()}
		}
	})
	if told(o) != "reset(subject 1)" {
		t.Errorf("an answer before translation: %q", told(o))
	}
	// A departure that no tap saw proves nothing and costs the round trip only.
	_, o = play(t, net4, short, func(s *script) { s.deaf, s.syn = true, answers(20*ms, probe.synAck) })
	if told(o) != "syn-ack(subject 1)" || o.Sent[0].Departed != nil || o.Replies[0].RTT != 0 {
		t.Errorf("got %+v", o.Replies)
	}
}

// A planned is a Plan that sends once and waits.
type planned struct {
	send func() error
	end  time.Time
}

func (p *planned) Step(now time.Time) (time.Time, bool, error) {
	if p.end.IsZero() {
		p.end = now.Add(time.Second)
		return p.end, false, p.send()
	}
	return p.end, !now.Before(p.end), nil
}

// The filter lets the reset pass that a control ACK draws where this machine's own
// translation changes the ports.
func TestTranslatedACK(t *testing.T) {
	for _, n := range networks {
		for name, at := range map[string]int{"source port": 0, "destination port": 2} {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t, n)
				s.leaves = func(raw []byte) { binary.BigEndian.PutUint16(raw[len(raw)-20+at:], 7777) }
				s.syn = func(p probe) []answer {
					drawn := p.reset().with(func(g *segment) { g.flags, g.seq, g.ack = "R", p.tcp.Ack, 0 })
					return []answer{drawn.after(time.Duration(p.n) * 20 * ms).eaten()}
				}
				o, err := ObserveWith(s.ctx, s, netip.AddrPortFrom(n.host, port), Options{Watch: s.sifted}, func(r *Run) Plan {
					return &planned{send: func() error {
						for range 3 {
							if err := r.SendACK(DefaultTTL); err != nil {
								return err
							}
						}
						return nil
					}}
				})
				if got := told(o); err != nil || got != "reset(tcp-ack 1) reset(tcp-ack 2) reset(tcp-ack 3)" {
					t.Errorf("%s, %s: got %q, %v", n.name, name, got, err)
				}
			})
		}
	}
}

// Where interfaces are stacked a packet leaves more than once: the times of the
// route's own interface count.
func TestStackedInterfaces(t *testing.T) {
	copyOn := func(p probe, ifi int, at time.Duration) answer {
		return packetAnswer(p.raw, p.src, false, false).after(at).edit(func(ev *Event) { ev.Direction, ev.Interface = pcap.Outgoing, ifi })
	}
	for name, order := range map[string][]int{"above first": {ethIdx, 9}, "below first": {9, ethIdx}} {
		_, o := play(t, net4, short, func(s *script) {
			s.deaf = true
			s.syn = func(p probe) []answer {
				return []answer{copyOn(p, order[0], 1*ms), copyOn(p, order[1], 2*ms), p.synAck().after(20 * ms)}
			}
		})
		want := o.Start.Add(map[int]time.Duration{ethIdx: 1 * ms, 9: 2 * ms}[order[0]])
		if d := o.Sent[0].Departed; d == nil || d.Interface != ethIdx || !d.Time.Equal(want) {
			t.Errorf("%s: departed %+v", name, d)
		}
	}
}

// A neighbour's answer counts where it is the next hop's, to us, and new.
func TestMatchNeighbour(t *testing.T) {
	arp := func(edit func(*arpReply)) answer {
		r := arpReply{sender: net4.gateway, hw: gatewayHW, target: net4.us, targetHW: ourHW, op: layers.ARPReply}
		edit(&r)
		return r.answer()
	}
	nd := func(edit func(*advertisement)) answer {
		a := advertisement{from: net6.gateway, to: net6.us, ttl: 255, flags: 0x60, target: net6.gateway, hw: gatewayHW}
		edit(&a)
		return a.answer()
	}
	for _, c := range []struct {
		name   string
		n      network
		answer answer
		want   bool
	}{
		{"arp", net4, arp(func(*arpReply) {}), true},
		{"arp sender", net4, arp(func(r *arpReply) { r.sender = net4.elsewhere }), false},
		{"arp target", net4, arp(func(r *arpReply) { r.target = net4.elsewhere }), false},
		{"arp target hardware", net4, arp(func(r *arpReply) { r.targetHW[5]++ }), false},
		{"arp request", net4, arp(func(r *arpReply) { r.op = layers.ARPRequest }), false},
		{"gratuitous arp", net4, arp(func(r *arpReply) { r.target, r.targetHW = r.sender, r.hw }), false},
		{"arp outgoing", net4, arp(func(*arpReply) {}).edit(func(ev *Event) { ev.Direction = pcap.Outgoing }), false},
		{"arp of another host", net4, arp(func(*arpReply) {}).edit(func(ev *Event) { ev.Direction = pcap.OtherHost }), false},
		{"arp of another link", net4, arp(func(*arpReply) {}).edit(func(ev *Event) { ev.Interface = 9 }), false},
		{"arp cut", net4, arp(func(*arpReply) {}).edit(func(ev *Event) { ev.Data = ev.Data[:27] }), false},
		{"nd", net6, nd(func(*advertisement) {}), true},
		{"nd from its link-local address", net6, nd(func(a *advertisement) { a.from = netip.MustParseAddr("fe80::fe") }), true},
		{"nd target", net6, nd(func(a *advertisement) { a.target = net6.elsewhere }), false},
		{"nd hop limit", net6, nd(func(a *advertisement) { a.ttl = 254 }), false},
		{"nd unsolicited", net6, nd(func(a *advertisement) { a.flags = 0x20 }), false},
		{"nd solicitation", net6, nd(func(a *advertisement) { a.typ = 135 }), false},
		{"nd without link-layer address", net6, nd(func(a *advertisement) { a.noOption = true }), false},
		{"nd of another link", net6, nd(func(*advertisement) {}).edit(func(ev *Event) { ev.Interface = 9 }), false},
		{"nd in a fragment", net6, nd(func(*advertisement) {}).edit(func(ev *Event) {
			rest := append([]byte{ev.Data[6], 0, 0, 0, 0, 0, 0, 7}, ev.Data[ipv6HeaderLen:]...)
			ev.Data = append(ev.Data[:ipv6HeaderLen:ipv6HeaderLen], rest...)
			ev.Data[5] += 8
			ev.Data[6] = 44
		}), false},
		{"nd checksum", net6, nd(func(*advertisement) {}).edit(func(ev *Event) { ev.Data[len(ev.Data)-1]++ }), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, o := play(t, c.n, short, func(s *script) {
				s.ask = func(k int) []answer {
					if k > 1 {
						return nil
					}
					return []answer{c.answer.after(10 * ms)}
				}
			})
			a := o.Asks[0]
			got := a.Answered.Equal(o.Start.Add(10*ms)) && a.Hardware == gatewayHW && s.counts["ask"] == 1
			if got != c.want || !c.want && (!a.Answered.IsZero() || s.counts["ask"] != 3) {
				t.Errorf("%d asked, recorded %+v; want it believed: %t", s.counts["ask"], o.Asks, c.want)
			}
		})
	}
	// Before anything was asked nothing is answered.
	for _, n := range networks {
		_, o := play(t, n, short, func(s *script) {
			s.machine.Interface.Resolves = false
			s.syn = func(probe) []answer { return []answer{neighbourAnswer(n).after(1 * ms)} }
		})
		if len(o.Asks) != 0 {
			t.Errorf("%s: got %+v", n.name, o.Asks)
		}
	}
}

// A busy machine's sockets get the ICMP errors about all its traffic. They must
// not crowd out the copy of our own answer, nor be kept.
func TestStrangersDeliveries(t *testing.T) {
	eachFamily(t, func(t *testing.T, n network) {
		_, o := play(t, n, short, func(s *script) {
			s.syn = func(p probe) []answer {
				var all []answer
				for i := range 200 {
					e := p.icmp(n.router, n.unreachable, n.admin)
					a := e.quoted(func(q []byte) { q[e.header()+4] ^= byte(i + 1) }).after(time.Duration(i) * time.Microsecond)
					a.events = a.events[1:]
					all = append(all, a)
				}
				return append(all, p.icmp(n.router, n.unreachable, n.admin).after(20*ms).early())
			}
		})
		if told(o) != "icmp-error(subject 1)" || !o.Replies[0].Delivered {
			t.Errorf("got %q, %+v", told(o), o.Replies)
		}
	})
}

// TestClockSet sets the clock of the stamps while an answer is under way: what it
// took is not known then, and a second try, after that, tells it.
func TestClockSet(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, 21 * ms, -time.Hour} {
		eachFamily(t, func(t *testing.T, n network) {
			_, o := play(t, n, Options{}, func(s *script) {
				s.syn = func(p probe) []answer { return []answer{p.reset().answer().eaten().after(20 * ms)} }
				s.echo = func(p probe) []answer {
					s.setClock(by)
					return []answer{p.echoReply().after(20 * ms)}
				}
			})
			if len(o.Replies) < 3 {
				t.Fatalf("%v: %s", by, told(o))
			}
			for i := range o.Replies {
				a := &o.Replies[i]
				want := 20 * ms
				if o.Sent[a.Probe].Try == 1 {
					want = 0
				}
				if a.RTT != want {
					t.Errorf("%v: %s %d took %v, want %v", by, a.Kind, o.Sent[a.Probe].Try, a.RTT, want)
				}
			}
		})
	}
}

// TestRoundTrip takes a departure without the kernel's stamp for what it is:
// somewhere between the send and the reading of the tap's copy.
func TestRoundTrip(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		departed *Departure
		answered time.Duration
		want     time.Duration
	}{
		{"no departure", nil, 700 * ms, 0},
		{"stamped", &Departure{Time: at(2 * ms)}, 700 * ms, 698 * ms},
		{"stamped by a clock that was set back", &Departure{Time: at(2 * ms)}, ms, 0},
		{"unstamped, a long way", &Departure{Time: at(2 * ms), Unstamped: true}, 700 * ms, 700 * ms},
		{"unstamped, a long way, read late", &Departure{Time: at(20 * ms), Unstamped: true}, 700 * ms, 0},
		{"unstamped, a short way", &Departure{Time: at(ms / 2), Unstamped: true}, ms, 0},
	} {
		s := Sent{Time: start, Departed: c.departed}
		if got := s.roundTrip(at(c.answered)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
