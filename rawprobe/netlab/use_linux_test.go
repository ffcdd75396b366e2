package netlab

import (
	"errors"
	"net"
	"strings"
	"testing"
)

func TestUse(t *testing.T) {
	Require(t)
	t.Parallel()
	var client *Machine
	ended := func(what string) {
		t.Helper()
		if client == nil {
			t.Fatalf("%s: it was not called", what)
		}
		if err := client.Do(func() error { return nil }); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the lab goes on: %v", what, err)
		}
		client = nil
	}

	err := Use(Chain(1), func(l *Lab) {
		client = l.Node("client")
		if name, err := connect(client, l.Addr("server", IPv4), 80); name != "server" {
			t.Errorf("got %q, %v", name, err)
		}
	})
	if err != nil {
		t.Error(err)
	}
	ended("success")

	// What ends a test ends the function, and only that.
	err = Use(Chain(1), func(l *Lab) {
		client = l.Node("client")
		l.Node("nobody")
		t.Error("it went on")
	})
	if err == nil || !strings.Contains(err.Error(), `no node "nobody"`) {
		t.Errorf("got %v", err)
	}
	ended("failure")

	err = Use(Chain(1).WithListen("server", "80"), func(*Lab) { t.Error("there is no lab") })
	if err == nil || !strings.Contains(err.Error(), `service "80"`) {
		t.Errorf("got %v", err)
	}
}
