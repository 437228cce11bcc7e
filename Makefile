# Two targets do everything a newcomer needs: `make dev` and `make check`.
# Both need Go and nothing else. `make e2e-qemu` needs root and Debian's apt.

GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s
FUZZMORE ?= 20s
PKGS     ?= ./...
TREES    ?= ../shared/data/vendor-dumps.tar.gz

.DEFAULT_GOAL := help
.PHONY: help dev build check format vet lint generate generated test conformance fuzz fuzz-all bench bench-code crawl-report threats simulate simulate-large simulate-mutants e2e-qemu chaos drill clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: build ## build Chiba, start a simulated rack, play the main job once, stay up
	bin/chiba dev --demo

build: ## build bin/chiba, and bin/chiba-agent, which is the agent alone
	CGO_ENABLED=0 go build -trimpath -o bin/chiba .
	CGO_ENABLED=0 go build -trimpath -o bin/chiba-agent ./agent/chiba-agent

check: format vet lint generated test fuzz ## what CI runs before e2e-qemu: format, vet, lint, generated code, tests, fuzzed scripts

format: ## is every file formatted?
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt -w these:"; echo "$$out"; exit 1; }

vet: ## go vet
	go vet $(PKGS)

lint: ## golangci-lint, at a pinned version; its first build takes some minutes
	$(GOLANGCI) run $(PKGS)

generate: ## write the generated code anew
	go run ./pkg/wire/gen pkg/wire/proto pkg/wire

generated: ## is the committed generated code what the generators write?
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	go run ./pkg/wire/gen pkg/wire/proto "$$dir" && \
	diff -r "$$dir/pb" pkg/wire/pb || { echo "run: make generate"; exit 1; }

test: ## all tests, with the race detector, in random order
	go test -race -shuffle=on -timeout 10m $(PKGS)

# Recorded exchanges with a real OpenBMC, a directory or a tar.gz; without them our own small cases.
TRANSCRIPTS ?= $(or $(wildcard ../shared/data/openbmc-transcripts.tar.gz),pkg/redfish/bmcsim/conformance/testdata/cases)

conformance: ## replay TRANSCRIPTS against the simulator, over TLS
	@go run ./pkg/redfish/bmcsim/conformance $(TRANSCRIPTS)

fuzz: ## fuzz the reader and the compiler of scripts, FUZZTIME each
	go test -run '^$$' -fuzz '^FuzzRead$$' -fuzztime $(FUZZTIME) ./pkg/scl/syntax
	go test -run '^$$' -fuzz '^FuzzCompile$$' -fuzztime $(FUZZTIME) ./pkg/scl/compile

# Recordings of real BMCs, if there are any, are what the readers of a BMC's answers begin with.
RECORDS ?= $(wildcard ../shared/data/*.tar.gz)
empty   :=

fuzz-all: export CHIBA_RECORDED = $(subst $(empty) ,:,$(abspath $(RECORDS)))
fuzz-all: ## fuzz all that parses input, FUZZMORE each; takes about 15 minutes
	@set -e; for file in $$(git grep -lE '^func Fuzz' -- '*_test.go'); do \
		for name in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9]*)\(.*/\1/p' $$file); do \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZMORE) ./$$(dirname $$file); \
		done; done

# GUESTS BMCs in machines of their own, 2 to 4. CHIBA_OPENBMC_IMAGE=FILE: one of a real OpenBMC instead.
GUESTS ?= 2

e2e-qemu: build ## drive the whole line against BMCs in QEMU; as root; fetches what it needs into the cache
	go build -trimpath -o bin/e2e-qemu ./e2e/qemu
	bin/e2e-qemu -guests $(GUESTS)

# DRILLS=REGEXP plays some of them: make chaos DRILLS=WANCut
chaos: ## drills over a WAN that is cut, with processes that die, hang or run out of disk; as root, 20 minutes
	@go test -c -o bin/chaos.test ./e2e/wan
	@cd e2e/wan && CHIBA_CHAOS=1 ../../bin/chaos.test -test.timeout 40m -test.run '$(DRILLS)'

threats: ## try every threat that has a test; last line: threats: N of TOTAL
	@go run ./e2e/threats

# SEEDS worlds in which everything goes wrong; FIRST is the seed of the first.
SEEDS ?= 1000
FIRST ?= 0

simulate: ## run SEEDS worlds in one thread each; last line: seeds: N violations: N
	@go run ./e2e/simulate -first $(FIRST) -seeds $(SEEDS)

simulate-mutants: ## plant bugs in the simulated worlds and see that each is found
	@go run ./e2e/simulate -mutants -seeds 300

simulate-large: ## an hour of 10,000 agents and 1,000,000 nodes, with what it costs
	@go run ./e2e/simulate -large

drill: ## kill -9 at every single write to a BMC: take-over, release, renewal, change of key
	CHIBA_DRILL=all go test -count=1 -timeout 30m -v -run '^TestKill9AtEveryWrite' ./e2e

bench: build ## what Chiba and others need for a simulated rack, against the goals
	bin/chiba bench

bench-code: ## benchmarks beside the code
	go test -run '^$$' -bench . -benchmem $(PKGS)

crawl-report: ## what is found in recorded trees of real BMCs: TREES=DIR or FILE.tar.gz
	@if test -e "$(TREES)"; then CHIBA_TREES="$(abspath $(TREES))" go test -count=1 -v -run '^TestRecordedTrees$$' ./pkg/redfish/inventory; \
	else echo "crawl-report: there is nothing at $(TREES): name a folder or a .tar.gz with TREES="; fi

clean: ## remove what make built
	rm -rf bin
