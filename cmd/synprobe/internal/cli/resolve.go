package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"synprobe/cmd/synprobe/internal/report"
)

const (
	// lookupTime bounds one name's resolution: what glibc gives the first try
	// with one server (resolv.conf(5), timeout).
	lookupTime = 5 * time.Second
	// reverseTime bounds all reverse names of one answer together. They are
	// pleasant and prove nothing: an answer does not wait for them.
	reverseTime = 300 * time.Millisecond
)

// resolver asks for each name once, whatever the number of targets that have
// it.
type resolver struct {
	env   *Env
	mu    sync.Mutex
	known map[string]*lookup
}

type lookup struct {
	done      chan struct{}
	addresses []netip.Addr
	err       error
}

// addresses gives the addresses of a name in the resolver's order.
func (r *resolver) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	r.mu.Lock()
	l := r.known[name]
	mine := l == nil
	if mine {
		l = &lookup{done: make(chan struct{})}
		if r.known == nil {
			r.known = make(map[string]*lookup)
		}
		r.known[name] = l
	}
	r.mu.Unlock()
	if mine {
		l.addresses, l.err = r.ask(ctx, name)
		close(l.done)
	}
	<-l.done
	return l.addresses, l.err
}

func (r *resolver) ask(ctx context.Context, name string) (found []netip.Addr, err error) {
	defer func() {
		// Others wait for this answer: a panic must not leave them waiting.
		if p := recover(); p != nil {
			err = bug(p)
		}
	}()
	shown := report.Escape(name)
	notFound := &failure{kind: report.NameNotFound, what: shown, why: "the name does not exist", hint: "check the spelling, and the search domains of this machine"}
	// "Name resolution APIs and libraries SHOULD recognize "invalid" names as
	// special and SHOULD always return immediate negative responses." (RFC
	// 6761, section 6.4)
	if n := strings.ToLower(strings.TrimSuffix(name, ".")); n == "invalid" || strings.HasSuffix(n, ".invalid") {
		return nil, notFound
	}
	limited, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	all, err := r.env.Lookup(limited, name)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return nil, notFound
	case err != nil:
		f := &failure{kind: report.NameServers, what: shown, why: "the name servers do not answer", hint: "try with the address instead, and look at the name servers of this machine"}
		if errors.As(err, &dns) {
			if dns.Server != "" {
				f.why += ", " + dns.Server + " last"
			}
			if !dns.IsTimeout && dns.Err != "" {
				f.why += " (" + dns.Err + ")"
			}
		}
		return nil, f
	}
	for _, a := range all {
		if a = a.Unmap(); !slices.Contains(found, a) {
			found = append(found, a)
		}
	}
	if len(found) == 0 {
		return nil, notFound
	}
	return found, nil
}

// choose finds the address to probe for t, and all the addresses it has.
func (r *run) choose(ctx context.Context, t *target) (netip.Addr, []netip.Addr, error) {
	if t.addr.IsValid() {
		return t.addr, []netip.Addr{t.addr}, nil
	}
	all, err := r.names.addresses(ctx, t.host)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	all = slices.Clone(all) // other targets share the name's
	shown := report.Escape(t.host)
	var fit []netip.Addr
	for i, a := range all {
		// A link-local address from a name server has no zone of its own.
		if a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" && r.flags.opt.Interface != "" {
			a = a.WithZone(r.flags.opt.Interface)
			all[i] = a
		}
		if r.flags.wantsFamily(a) {
			fit = append(fit, a)
		}
	}
	if len(fit) == 0 {
		other, want := family(all[0]), "IPv6"
		if other == want {
			want = "IPv4"
		}
		return netip.Addr{}, nil, misuse(shown, fmt.Sprintf("the name has no %s address, with %s", want, r.flags.familyFlag()), "it has "+addressList(all))
	}
	somebody := slices.DeleteFunc(slices.Clone(fit), func(a netip.Addr) bool { return nobody(a) != "" })
	if len(somebody) == 0 {
		// A filtering name server hides a name so.
		return netip.Addr{}, nil, &failure{kind: report.NameNotFound, what: shown, why: "the name servers give " + addressList(fit) + ", which is no host", hint: "a name server that filters answers so; ask another one"}
	}
	for _, a := range somebody {
		if r.env.Usable(a, r.flags.opt) {
			return a, all, nil
		}
	}
	// None can be reached from here: the first one's diagnosis says why.
	return somebody[0], all, nil
}

func addressList(all []netip.Addr) string {
	var texts []string
	for _, a := range all {
		texts = append(texts, report.Escape(a.String()))
	}
	return strings.Join(texts, ", ")
}

// reverse gives the names of devices, as far as they come in time.
func (r *run) reverse(ctx context.Context, devices []netip.Addr) map[netip.Addr]string {
	ctx, cancel := context.WithTimeout(ctx, reverseTime)
	defer cancel()
	type answer struct {
		addr netip.Addr
		name string
	}
	// With room for all, so that none that comes late waits for a reader.
	answers := make(chan answer, len(devices))
	for _, a := range devices {
		go func() {
			names, err := r.env.Reverse(ctx, a)
			if err != nil || len(names) == 0 {
				names = []string{""}
			}
			answers <- answer{a, strings.TrimSuffix(names[0], ".")}
		}()
	}
	found := make(map[netip.Addr]string)
	for range devices {
		select {
		case a := <-answers:
			if a.name != "" {
				found[a.addr] = a.name
			}
		case <-ctx.Done():
			return found
		}
	}
	return found
}
