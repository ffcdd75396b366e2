package main

import (
	"bytes"
	"context"
	endian "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"synprobe/rawprobe/netlab"
)

// hang bounds what must end by itself: far beyond any promise.
const hang = 30 * time.Second

// shell runs the program in a node and returns what it did, whatever that was.
func shell(t testing.TB, m *netlab.Machine, argv ...string) netlab.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	out, err := m.Run(m.Command(ctx, binary(), argv...))
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return out
}

// parse reads one line of JSON for each target.
func parse(stdout string) ([]result, error) {
	var all []result
	for line := range strings.Lines(stdout) {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return all, err
		}
		all = append(all, r)
	}
	return all, nil
}

// decode is parse for a program that may not fail.
func decode(t testing.TB, out netlab.Result) []result {
	t.Helper()
	all, err := parse(out.Stdout)
	if err != nil {
		t.Fatalf("output is no JSON: %v\nexit %d\n%s%s", err, out.Exit, out.Stdout, out.Stderr)
	}
	return all
}

// eventually waits for a condition of which nobody sends word.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(hang); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", hang, what)
		}
	}
}

// A surrounding is what the program finds around it, other than a network. The
// program is started in it by a second process of this test binary, which
// changes itself and then becomes the program.
type surrounding struct {
	// Etc is a directory to stand where /etc is, for the program alone.
	Etc string
	// NoNewPrivs keeps capabilities of the file from taking effect.
	NoNewPrivs bool
	// User is the user and group to be, 0 is root.
	User int

	Mounts string // the namespace of mounts that must not be changed
}

const surroundingVariable = "SYNPROBE_LAB_SURROUNDING"

// init becomes another program where it is told so. It comes before TestMain,
// which knows nothing of it.
func init() {
	text := os.Getenv(surroundingVariable)
	if text == "" {
		return
	}
	err := enter(text, os.Args[1:])
	fmt.Fprintf(os.Stderr, "surrounding: %v\n", err)
	os.Exit(99)
}

func mountNamespace() (string, error) { return os.Readlink("/proc/self/ns/mnt") }

// enter changes this process and becomes the program in argv. Its caller is on
// the main thread and stays there: what is changed is changed for the thread
// that executes the program.
func enter(text string, argv []string) error {
	var s surrounding
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	if s.Etc != "" {
		// The machine itself must never be changed: be sure twice.
		if ns, err := mountNamespace(); err != nil || ns == s.Mounts {
			return fmt.Errorf("not in a namespace of its own: %s %w", ns, err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount(s.Etc, "/etc", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", s.Etc, err)
		}
	}
	if s.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	if id := uintptr(s.User); id != 0 {
		for _, c := range [][4]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id}} {
			if _, _, errno := unix.RawSyscall(c[0], c[1], c[2], c[3]); errno != 0 {
				return fmt.Errorf("change user: %w", errno)
			}
		}
	}
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, surroundingVariable+"=") {
			env = append(env, kv)
		}
	}
	return unix.Exec(argv[0], argv, env)
}

// command returns the command that starts a program in s, in a node.
func (s surrounding) command(t testing.TB, ctx context.Context, m *netlab.Machine, argv ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if s.Mounts, err = mountNamespace(); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.Command(ctx, self, argv...)
	// LC_ALL: as a terminal of today has it.
	cmd.Env = append(os.Environ(), surroundingVariable+"="+string(text), "LC_ALL=C.UTF-8")
	cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNS
	return cmd
}

// run runs the program in s.
func (s surrounding) run(t testing.TB, m *netlab.Machine, argv ...string) netlab.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	out, err := m.Run(s.command(t, ctx, m, argv...))
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	if out.Exit == 99 {
		t.Fatalf("%s", out.Stderr)
	}
	return out
}

// etc makes a directory to stand where /etc is: the name servers and the hosts
// file that the program is to find.
func etc(t testing.TB, resolv, hosts string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"resolv.conf": resolv, "hosts": hosts,
		"nsswitch.conf": "hosts: files dns\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A tap captures what passes one interface of a node, by gopacket's capture,
// which shares no code with the program's.
type tap struct {
	m     *netlab.Machine
	iface netlab.Interface
	index int
	id    uint64 // of the marks that are its own
	// frames come in from a goroutine of the tap's own.
	frames chan frame
	done   chan struct{}
}

// A frame is one packet as the interface had it.
type frame struct {
	time time.Time // the kernel's stamp
	out  bool      // sent by the node
	kind string    // such as "syn", "icmp-echo", "arp-request"
	src  netip.AddrPort
	dst  netip.AddrPort
	ttl  int
}

func (f frame) String() string {
	way := "in"
	if f.out {
		way = "out"
	}
	return fmt.Sprintf("%s %s %v > %v ttl %d", way, f.kind, f.src, f.dst, f.ttl)
}

// mark and lastMark are types of Ethernet frames for local experiments (IEEE
// Std 802, "Local Experimental Ethertype").
const mark, lastMark = 0x88b5, 0x88b6

// taps counts the taps.
var taps atomic.Uint64

// listen taps an Ethernet interface until the test ends.
func listen(t testing.TB, m *netlab.Machine, name string) *tap {
	t.Helper()
	p := &tap{m: m, id: taps.Add(1), frames: make(chan frame, 1<<14), done: make(chan struct{})}
	for _, i := range m.Interfaces {
		if i.Name == name {
			p.iface = i
		}
	}
	var h *pcapgo.EthernetHandle
	err := m.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		p.index = i.Index
		h, err = pcapgo.NewEthernetHandle(name)
		return err
	})
	if err != nil {
		t.Fatalf("tap: %v", err)
	}
	go p.read(h)
	t.Cleanup(func() {
		// A read does not end by closing its socket, only by a packet.
		if err := p.send(lastMark); err != nil {
			t.Errorf("tap: %v", err)
			return
		}
		<-p.done
		h.Close()
	})
	return p
}

func (p *tap) read(h *pcapgo.EthernetHandle) {
	defer close(p.done)
	for {
		b, ci, err := h.ReadPacketData()
		if err != nil && strings.HasSuffix(err.Error(), syscall.EINTR.Error()) {
			continue
		}
		if err != nil {
			return
		}
		f := p.parse(b)
		f.time = ci.Timestamp
		switch f.kind {
		case "last mark":
			return
		case "another's mark":
		default:
			p.frames <- f
		}
	}
}

func (p *tap) parse(b []byte) frame {
	packet := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy)
	f := frame{kind: "unknown"}
	e, ok := packet.LinkLayer().(*layers.Ethernet)
	if !ok {
		return f
	}
	f.out = bytes.Equal(e.SrcMAC, p.iface.MAC)
	if e.EthernetType == mark || e.EthernetType == lastMark {
		switch own := endian.BigEndian.Uint64(e.Payload) == p.id; {
		case !own:
			f.kind = "another's mark"
		case e.EthernetType == mark:
			f.kind = "mark"
		default:
			f.kind = "last mark"
		}
		return f
	}
	var src, dst netip.Addr
	for _, l := range packet.Layers() {
		switch l := l.(type) {
		case *layers.ARP:
			f.kind = map[uint16]string{layers.ARPRequest: "arp-request", layers.ARPReply: "arp-reply"}[l.Operation]
		case *layers.IPv4:
			src, _ = netip.AddrFromSlice(l.SrcIP)
			dst, _ = netip.AddrFromSlice(l.DstIP)
			f.ttl, f.kind = int(l.TTL), "ip "+l.Protocol.String()
		case *layers.IPv6:
			src, _ = netip.AddrFromSlice(l.SrcIP)
			dst, _ = netip.AddrFromSlice(l.DstIP)
			f.ttl, f.kind = int(l.HopLimit), "ip6 "+l.NextHeader.String()
		case *layers.UDP:
			f.kind = "udp"
			f.src, f.dst = netip.AddrPortFrom(src, uint16(l.SrcPort)), netip.AddrPortFrom(dst, uint16(l.DstPort))
			return f
		case *layers.TCP:
			f.src, f.dst = netip.AddrPortFrom(src, uint16(l.SrcPort)), netip.AddrPortFrom(dst, uint16(l.DstPort))
			switch {
			case l.SYN && l.ACK:
				f.kind = "syn-ack"
			case l.SYN:
				f.kind = "syn"
			case l.RST:
				f.kind = "rst"
			default:
				f.kind = "tcp"
			}
			return f
		case *layers.ICMPv4:
			f.kind = "icmp " + l.TypeCode.String()
			if l.TypeCode.Type() == layers.ICMPv4TypeEchoRequest {
				f.kind = "icmp-echo"
			}
		case *layers.ICMPv6:
			f.kind = "icmp " + l.TypeCode.String()
			switch l.TypeCode.Type() {
			case layers.ICMPv6TypeEchoRequest:
				f.kind = "icmp-echo"
			case layers.ICMPv6TypeNeighborSolicitation:
				f.kind = "neighbor-solicitation"
			case layers.ICMPv6TypeNeighborAdvertisement:
				f.kind = "neighbor-advertisement"
			case 143: // RFC 3810: multicast listener report, by the kernel itself
				f.kind = "mld"
			}
		}
	}
	f.src, f.dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	return f
}

// send sends an empty frame of a type that nobody answers.
func (p *tap) send(kind uint16) error {
	b := append(bytes.Repeat([]byte{0xff}, 6), p.iface.MAC...)
	b = endian.BigEndian.AppendUint16(b, kind)
	b = endian.BigEndian.AppendUint64(b, p.id)
	b = append(b, make([]byte, 46-8)...) // the least that Ethernet carries
	return p.m.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: p.index})
	})
}

// taken returns what has passed since the last call, up to now: up to a frame
// that is sent for that.
func (p *tap) taken(t testing.TB) []frame {
	t.Helper()
	if err := p.send(mark); err != nil {
		t.Fatalf("tap: %v", err)
	}
	var all []frame
	timeout := time.After(hang)
	for {
		select {
		case f := <-p.frames:
			if f.kind == "mark" {
				return all
			}
			all = append(all, f)
		case <-p.done:
			t.Fatal("tap: it ended")
		case <-timeout:
			t.Fatal("tap: the mark was lost")
		}
	}
}

// sent returns what the node has sent since the last call, by itself or for
// the program; what its kernel says unasked, or answers to neighbours, is not
// in it.
func (p *tap) sent(t testing.TB) []frame {
	t.Helper()
	var own []frame
	for _, f := range p.taken(t) {
		switch f.kind {
		case "mld", "arp-reply", "neighbor-advertisement":
		default:
			if f.out {
				own = append(own, f)
			}
		}
	}
	return own
}

// capable is a copy of the program with the file capability that lets any user
// run it.
var capable = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary()), "capable", "synprobe")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	// Not copied by this process: a process that another test starts at that
	// moment would inherit the file open for writing, and while it is, nobody
	// may execute it (golang.org/issue/22315).
	if out, err := exec.Command("cp", binary(), path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy: %w: %s", err, out)
	}
	if err := unix.Setxattr(path, "security.capability", capNetRaw(), 0); err != nil {
		return "", fmt.Errorf("set capability: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return "", err
	}
	if fs.Flags&unix.ST_NOSUID != 0 {
		return "", errors.New("the directory for temporary files is mounted nosuid: no file there has capabilities")
	}
	return path, nil
})

// capNetRaw is what setcap cap_net_raw+ep writes: struct vfs_cap_data of
// linux/capability.h, revision 2, effective.
func capNetRaw() []byte {
	b := make([]byte, 20)
	copy(b, []byte{0x01, 0, 0, 0x02}) // little-endian: VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE
	b[4+unix.CAP_NET_RAW/8] = 1 << (unix.CAP_NET_RAW % 8)
	return b
}
