package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"synprobe/cmd/synprobe/internal/report"
)

// target is one HOST and PORT of the command line.
type target struct {
	host string     // as typed, without brackets
	addr netip.Addr // of a host that is an address; the zero Addr for a name
	port uint16

	number int // of the targets of the command line, from 1
}

// plan reads the targets and checks them, and the flags, against this machine.
// It asks no name server and sends nothing; whatever it refuses is wrong
// whoever answers.
func (r *run) plan(ctx context.Context) ([]*target, error) {
	pairs, err := split(r.flags.args)
	if err != nil {
		return nil, err
	}
	interfaces, err := r.machine()
	if err != nil {
		return nil, err
	}
	var targets []*target
	for _, p := range pairs {
		t := &target{host: p.single()}
		if err := r.readHost(t, interfaces); err != nil {
			err.target = t
			return nil, err
		}
		var err *failure
		if t.port, err = r.readPort(ctx, p.port); err != nil {
			err.target = t
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// machine lists the interfaces, and checks the flags that name what this
// machine has.
func (r *run) machine() ([]Interface, error) {
	interfaces, err := r.env.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	if name := r.flags.opt.Interface; name != "" && !slices.ContainsFunc(interfaces, func(i Interface) bool { return i.Name == name }) {
		return nil, misuse("--interface "+report.Escape(name), "there is no such interface", ourInterfaces(interfaces))
	}
	if src := r.flags.opt.Source; src.IsValid() && !r.env.Owns(src) {
		return nil, misuse("--source "+src.String(), "not an address of this machine", "leave it out to let the route decide")
	}
	return interfaces, nil
}

// pair is a host and a port as typed.
type pair struct {
	host, port string
	colon      bool // there was a place for the port, if nothing in it
}

// split tells HOST PORT from HOST:PORT…. Two arguments are HOST PORT unless
// the second one has a colon, which no port has, or the first one has a port
// already.
func split(args []string) ([]pair, error) {
	if len(args) == 0 {
		return nil, misuse("no target", "", "give HOST PORT, or HOST:PORT; "+seeHelp)
	}
	first, firstErr := splitHostPort(args[0])
	if len(args) == 2 && !strings.Contains(args[1], ":") {
		switch {
		case firstErr != nil:
			return nil, firstErr
		case !first.colon:
			return []pair{{host: first.host, port: args[1]}}, nil
		case isPort(args[1]):
			return nil, misuse(fmt.Sprintf("%s %s", report.Escape(args[0]), report.Escape(args[1])), "two ports for one host",
				"for both: synprobe "+shellQuote(args[0])+" "+shellQuote(bracket(first.host)+":"+args[1]))
		}
	}
	var pairs []pair
	for i, a := range args {
		p, err := splitHostPort(a)
		switch {
		case err != nil:
			return nil, err
		case p.colon && p.port == "":
			return nil, badPort("", a)
		case !p.colon:
			hint := "give HOST PORT, or HOST:PORT"
			if i == 0 && len(args) > 2 && !slices.ContainsFunc(args[1:], func(s string) bool { return !isPort(s) }) {
				hint = "for several ports: synprobe"
				for _, port := range args[1:] {
					hint += " " + shellQuote(bracket(p.host)+":"+port)
				}
			}
			return nil, misuse(report.Escape(a), "no port", hint)
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// isPort reports whether s is a number, as a port is and a host is not.
func isPort(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func bracket(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// splitHostPort takes HOST:PORT apart, and takes HOST alone too.
func splitHostPort(s string) (pair, error) {
	switch {
	case strings.Contains(s, "://"):
		return pair{}, misuse(report.Escape(s), "a URL, not a host and a port", "give HOST PORT, as in: synprobe db.example.com 5432")
	case strings.HasPrefix(s, "["):
		host, rest, closed := strings.Cut(s[1:], "]")
		if !closed || !isAddress(host) || !strings.Contains(host, ":") || rest != "" && rest[0] != ':' {
			return pair{}, misuse(report.Escape(s), "not an IPv6 address in brackets, with :PORT behind", "as in [2001:db8::1]:22")
		}
		return pair{host, strings.TrimPrefix(rest, ":"), rest != ""}, nil
	case strings.Count(s, ":") > 1:
		if !isAddress(s) {
			return pair{}, misuse(report.Escape(s), "not an IPv6 address, and too many colons for HOST:PORT", "as in [2001:db8::1]:22")
		}
		return pair{host: s}, nil
	}
	host, port, colon := strings.Cut(s, ":")
	return pair{host, port, colon}, nil
}

// isAddress reports whether s is the address of a host or of a network.
func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	if err != nil {
		_, err = netip.ParsePrefix(s)
	}
	return err == nil
}

// wide reports whether a pair may be more than one target: a network, but for
// one of a single address, or a list of ports.
func (p pair) wide() bool {
	from, to, ranged := strings.Cut(p.port, "-")
	return strings.Contains(p.host, "/") && p.single() == p.host || strings.Contains(p.port, ",") || ranged && isPort(from) && isPort(to)
}

// single is the host without a slash that says that it is one address.
func (p pair) single() string {
	if n, err := netip.ParsePrefix(p.host); err == nil && n.IsSingleIP() {
		return n.Addr().String()
	}
	return p.host
}

// badPort is the failure for a port that is none. where is the argument that
// it stands in, if that says more.
func badPort(port, where string) *failure {
	const hint = "a port is a number from 1 to 65535, or the name of a service"
	what := "port " + report.Escape(port)
	if where != "" {
		what += " in " + report.Escape(where)
	}
	digits := strings.TrimLeft(port, "-")
	switch {
	case port == "":
		return misuse(what, "empty", hint)
	case isPort(digits):
		return misuse(what, "not from 1 to 65535", hint)
	default:
		return misuse(what, "neither a number nor a known service", hint)
	}
}

func (r *run) readPort(ctx context.Context, s string) (uint16, *failure) {
	if isPort(s) {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return 0, badPort(s, "")
		}
		return uint16(n), nil
	}
	// The characters of RFC 6335, section 5.1, and those that older names in
	// /etc/services have.
	for i := range len(s) {
		c := s[i]
		if alnum := isLetter(c) || isDigit(c); !alnum && (i == 0 || !strings.ContainsRune("-_+.", rune(c))) {
			return 0, badPort(s, "")
		}
	}
	if s == "" {
		return 0, badPort(s, "")
	}
	n, err := r.env.Service(ctx, s)
	if err != nil || n < 1 || n > 65535 {
		return 0, badPort(s, "")
	}
	return uint16(n), nil
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// readHost finds out whether t's host is an address or a name, and whether it
// is one that a connection can be made to.
func (r *run) readHost(t *target, interfaces []Interface) *failure {
	shown := report.Escape(t.host)
	a, err := netip.ParseAddr(t.host)
	if err != nil {
		return checkName(t.host)
	}
	// A mapped address is one way to write the IPv4 address that it holds
	// (RFC 4291, section 2.5.5.2); the kernel takes it so.
	if a.Is4In6() {
		a = a.WithZone("").Unmap()
	}
	t.addr = a
	if why := nobody(a); why != "" {
		return misuse(shown, why, "give the address of one host")
	}
	if !r.flags.wantsFamily(a) {
		return misuse(shown, fmt.Sprintf("an %s address, with %s", family(a), r.flags.familyFlag()), "leave out "+r.flags.familyFlag()+", or give the host's "+otherFamily(a)+" address")
	}
	if !a.Is6() {
		return nil
	}
	zone, err2 := r.readZone(a, interfaces)
	if err2 != nil {
		return err2
	}
	t.addr = a.WithZone(zone)
	return nil
}

// readZone returns the name of the interface that a link-local address is
// valid on (RFC 4007).
func (r *run) readZone(a netip.Addr, interfaces []Interface) (string, *failure) {
	zone, wanted := a.Zone(), r.flags.opt.Interface
	shown := report.Escape(a.String())
	if !a.IsLinkLocalUnicast() {
		if zone != "" {
			return "", misuse(shown, "only a link-local address has a zone", "to choose the interface: -i "+shellQuote(zone))
		}
		return "", nil
	}
	if zone == "" {
		if wanted == "" {
			return "", misuse(shown, "a link-local address needs its interface", "as in "+a.String()+"%eth0; "+ourInterfaces(interfaces))
		}
		return wanted, nil
	}
	i := slices.IndexFunc(interfaces, func(i Interface) bool { return i.Name == zone })
	if i < 0 {
		i = slices.IndexFunc(interfaces, func(i Interface) bool { return strconv.Itoa(i.Index) == zone })
	}
	if i < 0 {
		return "", misuse(shown, "there is no interface "+report.Escape(zone), ourInterfaces(interfaces))
	}
	if name := interfaces[i].Name; wanted != "" && wanted != name {
		return "", misuse(shown+" and --interface "+report.Escape(wanted), "they name two interfaces", "leave --interface out: the zone says it")
	}
	return interfaces[i].Name, nil
}

func ourInterfaces(interfaces []Interface) string {
	var names []string
	for _, i := range interfaces {
		names = append(names, report.Escape(i.Name))
	}
	if len(names) == 0 {
		return "this machine has no interfaces"
	}
	return "this machine has " + strings.Join(names, ", ")
}

// nobody says why no TCP connection can be made to a, or nothing.
func nobody(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "this address stands for no host"
	case a.IsMulticast():
		return "a multicast address: TCP connects to one host"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address: TCP connects to one host"
	}
	return ""
}

// checkName refuses what no name server could know.
func checkName(host string) *failure {
	shown := host
	if len(shown) > 40 {
		shown = shown[:30] + "…" // the length is told
	}
	shown = report.Escape(shown)
	name := strings.TrimSuffix(host, ".")
	labels := strings.Split(name, ".")
	last := labels[len(labels)-1]
	switch {
	case host == "":
		return misuse(`host ""`, "empty", "give HOST PORT, or HOST:PORT")
	case len(name) > 253: // RFC 1035, section 2.3.4: 255 bytes on the wire
		return misuse("host "+shown, fmt.Sprintf("%d characters, where a name has at most 253", len(name)), "give HOST PORT, or HOST:PORT")
	case isPort(last):
		// No top-level domain is a number (RFC 3696, section 2): this was to be
		// an IPv4 address.
		return misuse("host "+shown, "not an IP address", "as in 192.0.2.1, without leading zeros")
	}
	for _, l := range labels {
		switch {
		case l == "":
			return misuse("host "+shown, "an empty part between dots", "as in db.example.com")
		case len(l) > 63:
			return misuse("host "+shown, fmt.Sprintf("a part of %d characters, where a name has at most 63", len(l)), "as in db.example.com")
		}
	}
	for _, c := range name {
		switch {
		case c < 0x80 && (isLetter(byte(c)) || isDigit(byte(c))), c == '-', c == '_', c == '.':
		case c == '%':
			return misuse("host "+shown, "not an IPv6 address with a zone", "as in fe80::1%eth0")
		case c > 0x7f:
			return misuse("host "+shown, "not written in ASCII", "give the name's xn-- form (RFC 5890)")
		default:
			return misuse("host "+shown, fmt.Sprintf("%q can't be part of a name", c), "as in db.example.com")
		}
	}
	if strings.HasPrefix(name, "-") {
		return misuse("host "+shown, "a name does not start with a hyphen", seeHelp)
	}
	return nil
}
