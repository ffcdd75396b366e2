package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A firewall is a node's nftables rules: a table of family inet, one of family
// netdev, and their chains, all of them made when first needed, because the
// mere presence of a chain costs packets time and of a NAT chain turns on
// connection tracking.
type firewall struct {
	mu     sync.Mutex
	conn   *nftables.Conn
	tables map[nftables.TableFamily]*nftables.Table
	chains map[string]*nftables.Chain
	counts int
}

func (fw *firewall) close() error {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	if fw.conn == nil {
		return nil
	}
	conn := fw.conn
	fw.conn = nil
	return conn.CloseLasting()
}

// open returns the firewall's connection, of the node's namespace.
func (m *Machine) openFirewall() (*nftables.Conn, error) {
	fw := &m.sys.fw
	if fw.conn != nil {
		return fw.conn, nil
	}
	fw.tables = make(map[nftables.TableFamily]*nftables.Table)
	fw.chains = make(map[string]*nftables.Chain)
	return fw.conn, m.do(func() (err error) {
		fw.conn, err = nftables.New(nftables.AsLasting())
		return err
	})
}

func (m *Machine) counterName() string {
	m.sys.fw.mu.Lock()
	defer m.sys.fw.mu.Unlock()
	m.sys.fw.counts++
	return fmt.Sprintf("counter %d", m.sys.fw.counts)
}

// addRules appends rules to the node's chains, all or none.
func (m *Machine) addRules(rules []PlanRule) error {
	if len(rules) == 0 {
		return nil
	}
	fw := &m.sys.fw
	fw.mu.Lock()
	defer fw.mu.Unlock()
	if _, err := m.openFirewall(); err != nil {
		return err
	}
	for _, r := range rules {
		for _, part := range parts(r) {
			if err := m.addRule(part); err != nil {
				return fmt.Errorf("rule at %s: %w", r.Hook, err)
			}
		}
		if r.Action == SynProxy {
			// The proxied connection's other half looks like one picked
			// up in the middle, which must not count as established; see
			// "synproxy" in nft(8).
			err := m.do(func() error { return writeSysctl("net.netfilter.nf_conntrack_tcp_loose", "0") })
			if err != nil {
				return err
			}
		}
	}
	if err := fw.conn.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// parts returns the rules that the kernel needs for r: one, but for a SYN
// proxy, which takes SYNs out of connection tracking, answers what is then
// untracked or unknown, and drops the rest of the unknown.
func parts(r PlanRule) []PlanRule {
	if r.Action != SynProxy {
		return []PlanRule{r}
	}
	syn, proxy, invalid := r, r, r
	syn.Hook, syn.Action, syn.OutIface = Prerouting, Notrack, ""
	syn.Flags, syn.FlagMask = SYN, 0
	proxy.Flags, proxy.FlagMask, proxy.State = 0, 0, CTInvalid|CTUntracked
	invalid.Flags, invalid.FlagMask, invalid.State, invalid.Action = 0, 0, CTInvalid, Drop
	return []PlanRule{syn, proxy, invalid}
}

func (m *Machine) addRule(r PlanRule) error {
	exprs, err := compile(r)
	if err != nil {
		return err
	}
	if r.Hook != Ingress && r.Hook != Egress {
		c := m.sys.fw.inetChain(r)
		m.sys.fw.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs, UserData: []byte(r.Name)})
		return nil
	}
	// These hooks belong to one interface each.
	ifaces := []string{"lo"}
	for _, i := range m.Interfaces {
		ifaces = append(ifaces, i.Name)
	}
	only := r.InIface
	if r.Hook == Egress {
		only = r.OutIface
	}
	for _, name := range ifaces {
		if only != "" && only != name {
			continue
		}
		c := m.sys.fw.netdevChain(r.Hook, name)
		m.sys.fw.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: exprs, UserData: []byte(r.Name)})
	}
	return nil
}

func (fw *firewall) table(f nftables.TableFamily) *nftables.Table {
	t := fw.tables[f]
	if t == nil {
		t = fw.conn.AddTable(&nftables.Table{Name: "lab", Family: f})
		fw.tables[f] = t
	}
	return t
}

func (fw *firewall) netdevChain(h Hook, iface string) *nftables.Chain {
	name := h.String() + "-" + iface
	c := fw.chains[name]
	if c == nil {
		hook := nftables.ChainHookIngress
		if h == Egress {
			hook = nftables.ChainHookEgress
		}
		c = fw.conn.AddChain(&nftables.Chain{
			Name: name, Table: fw.table(nftables.TableFamilyNetdev), Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityFilter, Device: iface,
		})
		fw.chains[name] = c
	}
	return c
}

var inetHooks = map[Hook]*nftables.ChainHook{
	Prerouting:  nftables.ChainHookPrerouting,
	Input:       nftables.ChainHookInput,
	Forward:     nftables.ChainHookForward,
	Output:      nftables.ChainHookOutput,
	Postrouting: nftables.ChainHookPostrouting,
}

// inetChain returns the chain for r's hook and kind of action, at the
// priorities that nft(8) calls raw, mangle, dstnat, filter and srcnat.
func (fw *firewall) inetChain(r PlanRule) *nftables.Chain {
	kind, typ, prio := "filter", nftables.ChainTypeFilter, nftables.ChainPriorityFilter
	switch r.Action {
	case Notrack:
		kind, prio = "raw", nftables.ChainPriorityRaw
	case DNAT, Redirect:
		kind, typ, prio = "nat", nftables.ChainTypeNAT, nftables.ChainPriorityNATDest
	case SNAT, Masquerade:
		kind, typ, prio = "nat", nftables.ChainTypeNAT, nftables.ChainPriorityNATSource
	default:
		if r.Hook == Prerouting {
			prio = nftables.ChainPriorityMangle // after tracking, before NAT
		}
	}
	name := r.Hook.String() + "-" + kind
	c := fw.chains[name]
	if c == nil {
		c = fw.conn.AddChain(&nftables.Chain{
			Name: name, Table: fw.table(nftables.TableFamilyINet), Type: typ,
			Hooknum: inetHooks[r.Hook], Priority: prio,
		})
		fw.chains[name] = c
	}
	return c
}

// compile returns the expressions of a rule.
func compile(r PlanRule) ([]expr.Any, error) {
	var es []expr.Any
	match := func(load expr.Any, data []byte) {
		es = append(es, load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data})
	}
	transport := func(offset, n uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: n}
	}
	network := func(offset, n uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n}
	}
	v4 := r.Family == IPv4

	// Chains of both tables see both families, and a netdev chain ARP too.
	switch {
	case r.Hook == Ingress || r.Hook == Egress:
		etherType := uint16(unix.ETH_P_IPV6)
		if v4 {
			etherType = unix.ETH_P_IP
		}
		match(&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1}, binaryutil.BigEndian.PutUint16(etherType))
	case v4:
		match(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, []byte{unix.NFPROTO_IPV4})
	default:
		match(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, []byte{unix.NFPROTO_IPV6})
	}
	if r.InIface != "" {
		match(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, ifname(r.InIface))
	}
	if r.OutIface != "" {
		match(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, ifname(r.OutIface))
	}
	// Offsets of source and destination: RFC 791, section 3.1, and RFC 8200,
	// section 3.
	srcAt, dstAt := uint32(12), uint32(16)
	if !v4 {
		srcAt, dstAt = 8, 24
	}
	for _, end := range []struct {
		at     uint32
		prefix netip.Prefix
	}{{srcAt, r.Src}, {dstAt, r.Dst}} {
		if !end.prefix.IsValid() {
			continue
		}
		addr := end.prefix.Masked().Addr().AsSlice()
		n := uint32(len(addr))
		es = append(es, network(end.at, n))
		if !end.prefix.IsSingleIP() {
			es = append(es, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: ipNet(end.prefix).Mask, Xor: make([]byte, n)})
		}
		es = append(es, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: addr})
	}
	if r.Fragment {
		// The flag MF and the offset, RFC 791, section 3.1.
		es = append(es, network(6, 2),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0x3f, 0xff}, Xor: []byte{0, 0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}})
	}
	if r.Proto != 0 {
		proto := byte(r.Proto)
		if r.Proto == ICMP && !v4 {
			proto = unix.IPPROTO_ICMPV6
		}
		match(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, []byte{proto})
	}
	if r.Proto == ICMP {
		t4, t6 := r.ICMP.Types()
		switch {
		case r.ICMP != AnyICMP && v4:
			match(transport(0, 1), []byte{t4})
		case r.ICMP != AnyICMP:
			match(transport(0, 1), []byte{t6})
		case !v4: // all but neighbour discovery, RFC 4861, section 4
			es = append(es, transport(0, 1), &expr.Range{Op: expr.CmpOpNeq, Register: 1, FromData: []byte{133}, ToData: []byte{137}})
		}
	}
	if r.SrcPort != 0 {
		match(transport(0, 2), binaryutil.BigEndian.PutUint16(r.SrcPort))
	}
	if r.DstPort != 0 {
		match(transport(2, 2), binaryutil.BigEndian.PutUint16(r.DstPort))
	}
	if r.Flags != 0 || r.FlagMask != 0 {
		mask := r.FlagMask
		if mask == 0 {
			mask = SYN | ACK | RST | FIN
		}
		es = append(es, transport(13, 1),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{byte(mask)}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(r.Flags)}})
	}
	if r.State != 0 {
		es = append(es, &expr.Ct{Register: 1, Key: expr.CtKeySTATE},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ctBits(r.State)), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	}
	if r.Every > 1 {
		match(&expr.Numgen{Register: 1, Modulus: uint32(r.Every), Type: unix.NFT_NG_INCREMENTAL}, binaryutil.NativeEndian.PutUint32(uint32(r.Phase)))
	}
	if r.Chance > 0 {
		// Numbers compare as bytes, so the most significant has to be first.
		es = append(es, &expr.Numgen{Register: 1, Modulus: 1000, Type: unix.NFT_NG_RANDOM},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binary.BigEndian.AppendUint32(nil, uint32(r.Chance*1000+0.5))})
	}
	if r.Limit.Rate > 0 {
		unit := expr.LimitTimeSecond
		switch r.Limit.Per {
		case time.Minute:
			unit = expr.LimitTimeMinute
		case time.Hour:
			unit = expr.LimitTimeHour
		}
		burst := uint32(5)
		if r.Limit.Burst > 0 {
			burst = uint32(r.Limit.Burst)
		}
		es = append(es, &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(r.Limit.Rate), Unit: unit, Burst: burst, Over: r.Limit.Over})
	}
	es = append(es, &expr.Counter{})
	action, err := actionExprs(r)
	return append(es, action...), err
}

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func ctBits(s CTState) uint32 {
	// NF_CT_STATE_UNTRACKED_BIT, linux/netfilter/nf_conntrack_common.h.
	const untracked = 1 << 6
	var bits uint32
	for _, b := range []struct {
		state CTState
		bit   uint32
	}{
		{CTNew, expr.CtStateBitNEW}, {CTEstablished, expr.CtStateBitESTABLISHED}, {CTRelated, expr.CtStateBitRELATED},
		{CTInvalid, expr.CtStateBitINVALID}, {CTUntracked, untracked},
	} {
		if s&b.state != 0 {
			bits |= b.bit
		}
	}
	return bits
}

func actionExprs(r PlanRule) ([]expr.Any, error) {
	family := uint32(unix.NFPROTO_IPV6)
	if r.Family == IPv4 {
		family = unix.NFPROTO_IPV4
	}
	port := []expr.Any{}
	portRegister := uint32(0)
	if r.ToPort != 0 {
		port = append(port, &expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(r.ToPort)})
		portRegister = 2
	}
	switch r.Action {
	case Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}, nil
	case Accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, nil
	case Count:
		return nil, nil
	case SetTTL:
		// RFC 791, section 3.1, with its checksum at 10; RFC 8200, section 3.
		set := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1}
		if r.Family == IPv4 {
			set.Offset, set.CsumType, set.CsumOffset = 8, expr.CsumTypeInet, 10
		}
		return []expr.Any{&expr.Immediate{Register: 1, Data: []byte{r.TTL}}, set}, nil
	case Reset:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}, nil
	case DNAT, SNAT:
		nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: portRegister}
		if r.Action == SNAT {
			nat.Type = expr.NATTypeSourceNAT
		}
		es := append([]expr.Any{&expr.Immediate{Register: 1, Data: r.To.AsSlice()}}, port...)
		return append(es, nat), nil
	case Masquerade:
		return []expr.Any{&expr.Masq{}}, nil
	case Redirect:
		return append(port, &expr.Redir{RegisterProtoMin: portRegister}), nil
	case Notrack:
		return []expr.Any{&expr.Notrack{}}, nil
	case SynProxy:
		// What Linux itself answers a client on Ethernet.
		return []expr.Any{&expr.SynProxy{Mss: 1460, MssValueSet: true, Wscale: 7, WscaleValueSet: true, Timestamp: true, SackPerm: true}}, nil
	}
	v4, v6, ok := r.Action.ICMPCodes()
	if !ok {
		return nil, fmt.Errorf("unknown action %d", r.Action)
	}
	code := v6
	if r.Family == IPv4 {
		code = v4
	}
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}}, nil
}

// hits sums the counters of the rules called name.
func (m *Machine) hits(name string) (uint64, error) {
	fw := &m.sys.fw
	fw.mu.Lock()
	defer fw.mu.Unlock()
	if fw.conn == nil {
		return 0, fmt.Errorf("no rule %q", name)
	}
	found, sum := false, uint64(0)
	for _, c := range fw.chains {
		rules, err := fw.conn.GetRules(c.Table, c)
		if err != nil {
			return 0, err
		}
		for _, r := range rules {
			if string(r.UserData) != name {
				continue
			}
			found = true
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					sum += counter.Packets
				}
			}
		}
	}
	if !found {
		return 0, fmt.Errorf("no rule %q", name)
	}
	return sum, nil
}

// die drops everything on all interfaces, in both directions and before the
// kernel sees it.
func (m *Machine) die() error {
	fw := &m.sys.fw
	fw.mu.Lock()
	defer fw.mu.Unlock()
	conn, err := m.openFirewall()
	if err != nil {
		return err
	}
	t := conn.AddTable(deadTable())
	policy := nftables.ChainPolicyDrop
	for _, i := range m.Interfaces {
		for _, hook := range []*nftables.ChainHook{nftables.ChainHookIngress, nftables.ChainHookEgress} {
			conn.AddChain(&nftables.Chain{
				Name: fmt.Sprintf("%s-%d", i.Name, *hook), Table: t, Type: nftables.ChainTypeFilter,
				Hooknum: hook, Priority: nftables.ChainPriorityRaw, Device: i.Name, Policy: &policy,
			})
		}
	}
	return conn.Flush()
}

func deadTable() *nftables.Table {
	return &nftables.Table{Name: "dead", Family: nftables.TableFamilyNetdev}
}

func (m *Machine) revive() error {
	fw := &m.sys.fw
	fw.mu.Lock()
	defer fw.mu.Unlock()
	if fw.conn == nil {
		return errors.New("it has not died")
	}
	fw.conn.DelTable(deadTable())
	return fw.conn.Flush()
}
