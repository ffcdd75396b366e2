package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An Injector stands at an interface of a node, sees what comes in there, and
// sends packets of its own back, by a packet socket: past the node's IP stack.
type Injector struct {
	file  *os.File
	mac   net.HardwareAddr
	left  atomic.Int64
	sent  atomic.Int64
	ended chan struct{}
}

const etherHeader = 14

// Inject has answer called for each packet that comes in at one of the node's
// Ethernet interfaces, and sends what it returns, which need be no packets,
// back to whoever sent it: limit packets in all. Answer is called from one
// goroutine. It ends with the lab.
func (m *Machine) Inject(iface string, limit int, answer func(p *Probe) [][]byte) *Injector {
	m.lab.tb.Helper()
	m.real("Inject")
	j := &Injector{ended: make(chan struct{})}
	j.left.Store(int64(limit))
	m.check("inject", m.do(func() error {
		i, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		j.mac = i.HardwareAddr
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		j.file = os.NewFile(uintptr(fd), "packet")
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return errors.Join(os.NewSyscallError("setsockopt PACKET_IGNORE_OUTGOING", err), j.file.Close())
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: i.Index}); err != nil {
			return errors.Join(os.NewSyscallError("bind", err), j.file.Close())
		}
		return nil
	}))
	m.own(j)
	go j.run(answer)
	return j
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

// Sent returns how many packets were sent so far.
func (j *Injector) Sent() int64 { return j.sent.Load() }

// Close ends it, and returns when nothing of it runs.
func (j *Injector) Close() error {
	err := j.file.Close()
	<-j.ended
	return err
}

func (j *Injector) run(answer func(p *Probe) [][]byte) {
	defer close(j.ended)
	b := make([]byte, 1<<16)
	for {
		n, err := j.file.Read(b)
		if errors.Is(err, unix.ENETDOWN) { // told once: it may come up again
			continue
		}
		if err != nil {
			return
		}
		if n <= etherHeader {
			continue
		}
		p, ok := ReadProbe(append([]byte(nil), b[etherHeader:n]...))
		if !ok || p.Kind == "" {
			continue
		}
		for _, packet := range answer(p) {
			if j.left.Add(-1) < 0 {
				break
			}
			switch err := j.send(b[6:12], packet); {
			case errors.Is(err, os.ErrClosed):
				return
			case err == nil:
				j.sent.Add(1)
			}
		}
	}
}

// send sends a packet in a frame.
func (j *Injector) send(to, packet []byte) error {
	if len(packet) == 0 {
		return fmt.Errorf("nothing to send")
	}
	proto := uint16(unix.ETH_P_IP)
	switch {
	case IsARP(packet):
		proto = unix.ETH_P_ARP
	case packet[0]>>4 == 6:
		proto = unix.ETH_P_IPV6
	}
	f := append(append(make([]byte, 0, etherHeader+len(packet)), to...), j.mac...)
	_, err := j.file.Write(append(binary.BigEndian.AppendUint16(f, proto), packet...))
	return err
}
