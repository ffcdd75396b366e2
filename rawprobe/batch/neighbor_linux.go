package batch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"synprobe/pcap"
	"synprobe/rawprobe/wire"
)

// Neighbours are asked three times within a second and waited for half a second
// more, unless all have answered.
const (
	asks     = 3
	askAgain = 500 * time.Millisecond
)

// resolve asks hops, on the link of ifi, for their link-layer addresses by ARP
// requests and neighbour solicitations of our own. Those that did not answer
// are missing in what it returns. Source is the address to ask from, by whether
// it is an IPv4 address.
func resolve(ifi *net.Interface, source map[bool]addr, hops map[addr]bool) (map[addr][6]byte, error) {
	found := make(map[addr][6]byte)
	// An entry that an administrator made is never asked for (NUD_PERMANENT).
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		entries, err := netlink.NeighList(ifi.Index, family)
		if err != nil {
			continue // no such family here
		}
		for _, e := range entries {
			ip, ok := netip.AddrFromSlice(e.IP)
			if ok && e.State&unix.NUD_PERMANENT != 0 && len(e.HardwareAddr) == 6 && hops[fromNetip(ip)] {
				found[fromNetip(ip)] = [6]byte(e.HardwareAddr)
			}
		}
	}
	if len(found) == len(hops) {
		return found, nil
	}
	tap, err := pcap.Open(pcap.Config{Filter: pcap.Interest{Neighbors: true}.Filter(), Interface: ifi.Index})
	if err != nil {
		return nil, privilege("open packet socket", err)
	}
	defer tap.Close()
	var mac [6]byte
	copy(mac[:], ifi.HardwareAddr)
	for range asks {
		for hop := range hops {
			if _, ok := found[hop]; ok {
				continue
			}
			if err := askFor(tap, ifi.Index, mac, source[hop.is4()].netip(), hop.netip()); err != nil && refusedFrame(err) {
				return nil, fmt.Errorf("ask for %s: %w", hop.netip(), err)
			}
		}
		if err := tap.SetReadDeadline(time.Now().Add(askAgain)); err != nil {
			return nil, err
		}
		var p pcap.Packet
		for len(found) < len(hops) {
			err := tap.Read(&p)
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ENETDOWN) {
				break
			}
			if err != nil {
				return nil, err
			}
			if a, hw, ok := told(&p, mac); ok && hops[a] {
				found[a] = hw
			}
		}
		if len(found) == len(hops) {
			break
		}
	}
	return found, nil
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
