package batch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"synprobe/pcap"
	"synprobe/rawprobe/wire"
)

// Neighbours are asked three times, half a second apart.
const (
	asks     = 3
	askAgain = 500 * time.Millisecond
	// askRate is the most requests in a second where the run has no limit:
	// every host of the link gets to see them.
	askRate = 5000
)

// A question is what to ask for on one link, each with the address to ask from:
// a host answers what comes from its own network, and need not know others.
type question map[addr]addr

// ask asks for link-layer addresses by ARP requests and neighbour solicitations
// of our own, at a rate in packets a second, and puts them into found. Those
// that did not answer are missing there. Now and then it calls note with the
// number of requests sent, and how many there are to be at most. Where ctx ends
// it returns at once.
func (q question) ask(ctx context.Context, ifi *net.Interface, rate int, found map[addr][6]byte, note func(sent, most int)) error {
	missing := make(map[addr]bool, len(q))
	for hop := range q {
		missing[hop] = true
	}
	// An entry that an administrator made is never asked for (NUD_PERMANENT).
	for _, e := range neighbors(ifi.Index) {
		ip, ok := netip.AddrFromSlice(e.IP)
		if ok && e.State&unix.NUD_PERMANENT != 0 && len(e.HardwareAddr) == 6 && missing[fromNetip(ip)] {
			found[fromNetip(ip)] = [6]byte(e.HardwareAddr)
			delete(missing, fromNetip(ip))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	tap, err := pcap.Open(pcap.Config{Filter: pcap.Interest{Neighbors: true}.Filter(), Interface: ifi.Index})
	if err != nil {
		return privilege("open packet socket", err)
	}
	defer tap.Close()
	var mac [6]byte
	copy(mac[:], ifi.HardwareAddr)
	if rate == 0 || rate > askRate {
		rate = askRate
	}
	var p pcap.Packet
	// listen takes in answers for a time, or until all have answered.
	listen := func(d time.Duration) error {
		if err := tap.SetReadDeadline(time.Now().Add(d)); err != nil {
			return err
		}
		for len(missing) > 0 {
			err := tap.Read(&p)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			if errors.Is(err, unix.ENETDOWN) {
				time.Sleep(d)
				return nil
			}
			if err != nil {
				return err
			}
			if a, hw, ok := told(&p, mac); ok && missing[a] {
				found[a] = hw
				delete(missing, a)
			}
		}
		return nil
	}
	together := max(1, rate/100) // in 10 ms
	sent := 0
	for round := range asks {
		left := slices.Collect(maps.Keys(missing))
		for i, hop := range left {
			if ctx.Err() != nil {
				return nil
			}
			if err := askFor(tap, ifi.Index, mac, q[hop].netip(), hop.netip()); err != nil && refusedFrame(err) {
				return fmt.Errorf("ask for %s: %w", hop.netip(), err)
			}
			sent++
			if i%together == together-1 {
				note(sent, sent+len(left)-1-i+(asks-1-round)*len(missing))
				if err := listen(time.Duration(together) * time.Second / time.Duration(rate)); err != nil {
					return err
				}
			}
		}
		if err := listen(askAgain); err != nil {
			return err
		}
	}
	return nil
}

// neighbors returns the kernel's table of a link.
func neighbors(index int) (all []netlink.Neigh) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		entries, err := netlink.NeighList(index, family)
		if err != nil {
			continue // no such family here
		}
		all = append(all, entries...)
	}
	return all
}

// kernelKnows reports whether the kernel would send to a neighbour without
// asking first (NUD_VALID, include/net/neighbour.h).
func kernelKnows(index int, hop addr) bool {
	const valid = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_PROBE | unix.NUD_STALE | unix.NUD_DELAY
	for _, e := range neighbors(index) {
		if ip, ok := netip.AddrFromSlice(e.IP); ok && fromNetip(ip) == hop && e.State&valid != 0 {
			return true
		}
	}
	return false
}

// refusedFrame reports whether an error of a send is more than a full queue or
// a link that is down: those are silence.
func refusedFrame(err error) bool {
	return !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.EAGAIN)
}

func askFor(tap *pcap.Listener, index int, mac [6]byte, source, hop netip.Addr) error {
	if hop.Is4() {
		broadcast := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		return tap.Send(index, pcap.EtherTypeARP, broadcast, wire.AppendARPRequest(nil, mac, source, hop))
	}
	_, group := wire.SolicitedNode(hop)
	return tap.Send(index, pcap.EtherTypeIPv6, group, wire.AppendNeighborSolicitation(nil, source, hop, mac))
}

// told reads an answer to our own request: an ARP reply to us, or a solicited
// advertisement, which "could not possibly have been forwarded by a router" (RFC
// 4861, section 7.1.2).
func told(p *pcap.Packet, mac [6]byte) (addr, [6]byte, bool) {
	if p.Direction != pcap.Incoming {
		return addr{}, [6]byte{}, false
	}
	if p.EtherType == pcap.EtherTypeARP {
		a, err := wire.ParseARP(p.Data)
		return fromNetip4(a.Sender), a.SenderHW, err == nil && a.Op == wire.ARPReply && a.TargetHW == mac
	}
	ip, err := wire.ParseIP(p.Data)
	if err != nil || ip.Proto != wire.ProtoICMPv6 || ip.TTL != wire.NeighborHopLimit || ip.HasFragmentHeader {
		return addr{}, [6]byte{}, false
	}
	m, err := wire.ParseICMPv6(ip.Payload)
	if err != nil {
		return addr{}, [6]byte{}, false
	}
	n, err := wire.ParseNeighbor(m)
	if err != nil || n.Solicitation || !n.Solicited || !n.HasLinkAddr {
		return addr{}, [6]byte{}, false
	}
	return fromNetip(n.Target), n.LinkAddr, true
}

// fromNetip4 is fromNetip for what may be no address.
func fromNetip4(a netip.Addr) addr {
	if !a.Is4() {
		return addr{}
	}
	return fromNetip(a)
}
