package netlab_test

import (
	"fmt"
	"net/netip"
	"testing"

	"synprobe/rawprobe/netlab"
)

// A router in the middle of three drops what goes to port 5432.
func Example() {
	topo := netlab.Chain(3).WithRules("r2", netlab.Rule{
		Hook: netlab.Forward, Proto: netlab.TCP, DstPort: 5432, Action: netlab.Drop,
	})
	plan, err := topo.Resolve()
	if err != nil {
		panic(err)
	}
	fmt.Println(plan.Addr("client", netlab.IPv4), plan.Addr("r2", netlab.IPv4), plan.Addr("server", netlab.IPv6))

	_ = func(t *testing.T) { // a test that runs a program there
		lab := netlab.Start(t, topo)
		client := lab.Node("client")
		arrived := lab.Node("server").CountSYN(5432)
		target := netip.AddrPortFrom(lab.Addr("server", netlab.IPv4), 5432)
		res, err := client.Run(client.Command(t.Context(), "synprobe", "--json", target.String()))
		if err != nil || res.Exit != 3 || arrived.Packets() != 0 {
			t.Errorf("%+v, %v", res, err)
		}
	}
	// Output: 10.0.1.1 10.0.2.2 fd00:0:0:4::2
}
