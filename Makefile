# make                build bin/synprobe, one static binary
# make demo           as root: what synprobe says about each kind of fault
# make test           all tests; as root with the lab, else as much of it as a
#                     user namespace can hold
# make race           the same under the race detector, where there is a C compiler
# make fuzz           every fuzz target for FUZZTIME each
# make lint           gofmt, go vet, staticcheck
# make bench          many targets: cost of a probe, in turn with zmap and masscan
# make cross          build, and vet with tests, for the other systems
# make clean

# sudo may hide where Go's own archive puts it.
GO ?= $(or $(shell command -v go 2>/dev/null),$(wildcard /usr/local/go/bin/go),go)

# All that a user builds is pure Go; only the race detector needs C.
export CGO_ENABLED = 0

# git refuses to speak about a tree that another user owns (make test as root),
# and go then refuses to build: do without the version stamp there.
# Tests that build the program need no stamp.
BUILDVCS := $(shell git status >/dev/null 2>&1 && echo auto || echo false)
test race lint cross fuzz bench: export GOFLAGS := $(shell $(GO) env GOFLAGS) -buildvcs=false

# LAB=1 makes a test fail that can't build its network, instead of skip.
ROOT := $(filter 0,$(shell id -u))
LAB  ?= $(if $(ROOT),1,0)

# Labs spend their time waiting, so several share a CPU. No result is cached:
# they depend on the kernel too.
TESTFLAGS = -count=1 -parallel=12

FUZZTIME ?= 60s
RACEFLAGS ?=
CROSS     = linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64

.PHONY: build demo test race fuzz bench lint cross clean

build:
	$(GO) build -trimpath -buildvcs=$(BUILDVCS) -o bin/synprobe ./cmd/synprobe

# What sudo has built belongs to who asked.
demo:
	@$(if $(ROOT),,echo "make demo: needs root, to build networks of its own: sudo make demo" >&2; exit 1)
	@$(MAKE) --no-print-directory build
	$(GO) build -trimpath -buildvcs=$(BUILDVCS) -o bin/demo ./cmd/demo
	@$(if $(SUDO_UID),chown "$(SUDO_UID):$(SUDO_GID)" bin bin/synprobe bin/demo)
	@bin/demo

test:
	@$(if $(ROOT),,echo "make test: not root: networks are built in a user namespace, and a few tests skip; where there may be none, all that need one; as root all of them run")
	LAB=$(LAB) $(GO) test $(TESTFLAGS) ./...

race:
	@if command -v "$$($(GO) env CC)" >/dev/null; then set -x; \
		LAB=$(LAB) CGO_ENABLED=1 $(GO) test -race $(TESTFLAGS) $(RACEFLAGS) ./...; \
	else echo "make race: SKIPPED: the race detector needs a C compiler, and there is no $$($(GO) env CC)"; fi

# go test -fuzz takes one target at a time.
fuzz:
	@list=$$($(GO) test -list '^Fuzz' ./...) || { echo "$$list"; exit 1; }; echo "$$list" | \
	awk '/^Fuzz/ { names[++n] = $$1 } /^ok/ { for (i = 1; i <= n; i++) print $$2, names[i] } !/^Fuzz/ { n = 0 }' | \
	{ found=0; while read -r package name; do found=1; \
		echo "== $$name in $$package"; \
		$(GO) test -run='^$$' -fuzz="^$$name\$$" -fuzztime=$(FUZZTIME) "$$package" || exit 1; \
	done; [ $$found = 1 ] || { echo "make fuzz: found no fuzz target" >&2; exit 1; }; }

# BENCHTIME counts runs of each program. They need root, and an idle machine.
BENCHTIME ?= 5x
bench:
	LAB=$(LAB) $(GO) test -count=1 -timeout 1h -run '^$$' -bench 'Silent|Reset|Rejected|Open|Paced' -benchtime $(BENCHTIME) ./rawprobe/batch

lint:
	@unformatted=$$($(GO)fmt -l cmd pcap rawprobe traceroute); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

cross:
	@for target in $(CROSS); do echo "== $$target"; \
		GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build ./... && \
		GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) vet ./... || exit 1; \
	done

clean:
	rm -rf bin
