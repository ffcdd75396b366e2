package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const (
	nfnlSubsysCtnetlink = 1
	ipctnlMsgCtNew      = 0

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaTimeout    = 7

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ipsSeenReply = 1 << 1
	ipsAssured   = 1 << 2
	ipsConfirmed = 1 << 3
)

// maxConntrack is the largest table that is filled, of some 320 MiB.
const maxConntrack = 1 << 20

func readNumber(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// fillConntrack fills the connection tracking table of the calling thread's
// namespace. The limit is the whole machine's, but is compared with the
// namespace's own count (__nf_conntrack_alloc, net/netfilter/
// nf_conntrack_core.c), so that nothing outside runs into it. Assured entries
// are not evicted for new ones (early_drop_list).
func fillConntrack() error {
	limit, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return err
	}
	if limit == 0 || limit > maxConntrack {
		return fmt.Errorf("a limit of %d entries: %w", limit, errors.ErrUnsupported)
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	const batch = 256 // some 40 KiB a message, below the default send buffer
	for from := 0; from < limit; from += batch {
		// One datagram of many messages, each unacknowledged but the last:
		// netlink_rcv_skb takes them one by one.
		var msgs []netlink.Message
		n := min(batch, limit-from)
		for i := range n {
			data, err := udpEntry(from + i)
			if err != nil {
				return err
			}
			flags := netlink.Request | netlink.Create
			if i == n-1 {
				flags |= netlink.Acknowledge
			}
			msgs = append(msgs, netlink.Message{
				Header: netlink.Header{Type: nfnlSubsysCtnetlink<<8 | ipctnlMsgCtNew, Flags: flags},
				Data:   data,
			})
		}
		if _, err := c.SendMessages(msgs); err != nil {
			return err
		}
		if _, err := c.Receive(); err != nil {
			// The last few may already find the table full: the node's own
			// connections count.
			if errors.Is(err, unix.ENOMEM) {
				break
			}
			return err
		}
	}
	count, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_count")
	if err == nil && count < limit {
		err = fmt.Errorf("%d entries of %d", count, limit)
	}
	return err
}

// udpEntry returns the message for entry n: a UDP flow of addresses that are
// nobody's (RFC 2544's benchmark networks).
func udpEntry(n int) ([]byte, error) {
	a := [4]byte{198, 19, byte(n >> 24), byte(n >> 16)}
	b := [4]byte{198, 19, 255, 255}
	port := uint16(n)
	tuple := func(src, dst [4]byte, sport, dport uint16) func(*netlink.AttributeEncoder) error {
		return func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.BigEndian
			ae.Nested(ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
				ae.Bytes(ctaIPv4Src, src[:])
				ae.Bytes(ctaIPv4Dst, dst[:])
				return nil
			})
			ae.Nested(ctaTupleProto, func(ae *netlink.AttributeEncoder) error {
				ae.ByteOrder = binary.BigEndian
				ae.Uint8(ctaProtoNum, unix.IPPROTO_UDP)
				ae.Uint16(ctaProtoSrcPort, sport)
				ae.Uint16(ctaProtoDstPort, dport)
				return nil
			})
			return nil
		}
	}
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctaTupleOrig, tuple(a, b, port, 9))
	ae.Nested(ctaTupleReply, tuple(b, a, 9, port))
	ae.Uint32(ctaStatus, ipsSeenReply|ipsAssured|ipsConfirmed)
	ae.Uint32(ctaTimeout, 3600) // seconds: longer than any test
	attrs, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	// struct nfgenmsg: family, version 0, resource 0.
	return append([]byte{unix.AF_INET, 0, 0, 0}, attrs...), nil
}
