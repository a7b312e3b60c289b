# The build needs Go and nothing else; programs are static.
GO       ?= go
GOFLAGS  += -trimpath
LDFLAGS  := -s -w
PROGRAMS := eos eos-init os-update os-update-daemon os-update-restricted flake-ctl flake-registry fleet podman-pilot
FUZZTIME ?= 30s
MANDIR   ?= build/man

export CGO_ENABLED := 0

# What `make campaign` does: N power cuts each of updates, of first boots and of flakes, at moments drawn from SEED, on MACHINES machines at a time.
CUTS     ?= TestPowerCuts|TestFirstBootCuts|TestFlakes
N        ?= 50
SEED     ?= 1
MACHINES ?= 2

.PHONY: all build $(PROGRAMS) setup setup-tests setup-bench lint unit test campaign bench bench-update bench-flake demo man completion fuzz clean

all: build

build: $(PROGRAMS)

# go build knows better than make what is up to date.
$(PROGRAMS):
	$(GO) build $(GOFLAGS) -ldflags "$(LDFLAGS)" -o bin/$@ ./cmd/$@

# The two programs that are not in the tools tree, and those that tests alone need.
setup:
	@sh scripts/setup

setup-tests:
	@sh scripts/setup tests

setup-bench:
	@sh scripts/setup bench

# Without virtual machines, a few minutes.
unit: setup-tests
	$(GO) test ./...

# Everything. Whole systems come last and one at a time: they measure time-outs.
test: setup-tests
	EOS_TEST_VM=1 $(GO) test -timeout 30m $$($(GO) list ./... | grep -v /test/vm)
	EOS_TEST_VM=1 $(GO) test -count=1 -timeout 80m -v ./test/vm

campaign: setup
	EOS_TEST_VM=1 $(GO) test -count=1 -timeout 24h -v ./test/vm -run '$(CUTS)' -cuts $(N) -seed $(SEED) -machines $(MACHINES)

bench: setup build
	$(GO) run ./test/bench

# One security update, fetched in the ways there are.
bench-update: setup build
	$(GO) run ./test/bench -only transfer -json out/bench-update.json

# Flakes beside podman and beside what the older system did. As root.
bench-flake: setup-bench build
	$(GO) run ./test/bench -only flake -json out/bench-flake.json

demo: setup build
	@demo/demo.sh

lint:
	@bad=$$(gofmt -l cmd internal os test); if [ -n "$$bad" ]; then echo "gofmt: $$bad"; exit 1; fi
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

# Man pages of eos come from its command tree, the others from docs/man.
man: eos
	bin/eos man $(MANDIR)
	install -m 0644 docs/man/*.[1-8] $(MANDIR)

completion: eos
	mkdir -p build/completion
	bin/eos completion bash > build/completion/eos.bash
	bin/eos completion zsh > build/completion/_eos
	bin/eos completion fish > build/completion/eos.fish

# Each fuzz target for FUZZTIME; finding none of them is an error.
fuzz:
	@found=0; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' cmd internal | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go | cut -c6- | sort -u); do \
			found=1; echo "== $$dir $$f"; \
			$(GO) test ./$$dir -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) || exit 1; \
		done; \
	done; [ $$found = 1 ] || { echo "no fuzz targets found"; exit 1; }

clean:
	rm -rf bin build
