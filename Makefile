# Devicekeys. `make` alone lists what there is to do.

.DEFAULT_GOAL := help
SHELL := /bin/sh

# Devices of the demo: make demo DEVICES=1000. KEEP=1 leaves its servers running.
DEVICES ?= 200
export DEVICES

# The torture: make torture DURATION=30m DEVICES=50000 SEED=7, CHIPS=token, STEPS=all. Without DEVICES it makes 1000.
torture_devices = $(if $(filter file,$(origin DEVICES)),1000,$(DEVICES))

# The failover: make ha DEVICES=1000. Without DEVICES it makes 600.
ha_devices = $(if $(filter file,$(origin DEVICES)),600,$(DEVICES))

# One benchmark: make bench BENCH=publish, several: BENCH=publish,lookup. bin/bench --list shows them.
export BENCH

# All packages with the race detector take a few minutes on 2 cores; past this, something hangs.
TEST_TIMEOUT ?= 20m

# Programs that must build where there is neither a C compiler nor a PKCS#11 module.
pure_go := $(wildcard cmd/registry cmd/message)
programs := $(filter-out $(pure_go) cmd/internal,$(patsubst %/,%,$(wildcard cmd/*/)))

# Tools are pinned in a module of their own, so that they choose no version for the programs.
tool := go tool -modfile=tools/go.mod
protos := $(wildcard */rpc/*.proto)

# In a checkout that belongs to another user git refuses, and with it `go build`, which asks for the commit.
ifeq ($(shell git rev-parse HEAD 2>/dev/null),)
export GOFLAGS := $(GOFLAGS) -buildvcs=false
endif

.PHONY: help demo build test fuzz torture ha bench bench-long bench-tiny microbench lint proto clean setup

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## Run the assembly line on real parts and restore a device (DEVICES=200, KEEP=1)
	@bin/demo

build: setup ## Build every program into bin/
	@mkdir -p bin
	@$(if $(pure_go),CGO_ENABLED=0 go build -o bin/ $(addprefix ./,$(pure_go)))
	@$(if $(programs),go build -o bin/ $(addprefix ./,$(programs)))

test: setup ## Run every test, with the race detector, on real SoftHSM and Postgres; say at the end what was not tested
	@mkdir -p bin
	@go build -o bin/ ./cmd/internal/gotest
	@bin/gotest -race -timeout $(TEST_TIMEOUT) ./...

fuzz: setup ## Run every fuzz target for a while (FUZZTIME=10m for each, FUZZ=regexp for some, JOBS=2 at a time)
	@mkdir -p bin
	@go build -o bin/ ./cmd/fuzz
	@bin/fuzz run $(if $(FUZZ),'$(FUZZ)')

torture: build ## Break the whole factory while it works, then check (DURATION=2m, DEVICES, CHIPS, SEED, STEPS=all)
	@$(if $(STEPS),bin/torture steps --steps $(STEPS),DEVICES=$(torture_devices) bin/torture)

ha: build ## Kill the leader of a Postgres cluster of three while devices are assembled, then check (DEVICES=600)
	-@deploy/setup ha
	@DEVICES=$(ha_devices) bin/ha

bench: build ## Measure against bounds of the same run, under five minutes (BENCH=line for one); report in var/bench
	@bin/bench

bench-long: build ## The same with the long ones: 50,000 devices, a thousand token chips, a million rows
	@bin/bench --long

bench-tiny: build ## Run every benchmark, long ones too, at a hundredth of its size, to see that all work
	@bin/bench --long --rounds 1 --scale 0.01 --dir var/bench-tiny

microbench: setup ## Run the packages' own Go benchmarks
	go test -run '^$$' -bench . ./...

lint: ## Check format, vet, staticcheck, generated code and imports
	@deploy/setup lint
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "lint: not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go vet -tags devicekeys_import ./...
	$(tool) staticcheck -tags devicekeys_import ./...
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call generate,"$$fresh") && \
	for f in $$(cd "$$fresh" && find . -name '*.go'); do \
		grep -v '^// 	protoc  ' "$$fresh/$$f" >"$$fresh/want"; \
		grep -v '^// 	protoc  ' "$$f" 2>/dev/null | cmp -s - "$$fresh/want" || { echo "lint: $$f is not what its .proto says; run make proto"; exit 1; }; \
	done
	go test -count 1 -run Architecture .

proto: ## Generate the RPC code from its .proto files, beside them
	@deploy/setup lint
	@$(call generate,.)

clean: ## Remove what was built and what demo and torture left in var/
	rm -rf bin var

setup: ## Install what is missing: SoftHSM, PostgreSQL, a C compiler
	@deploy/setup

# generate writes the Go code of every .proto file below the folder $(1). The line that names protoc's own version
# is the one thing that differs from machine to machine.
define generate
protoc -I . \
	--plugin=protoc-gen-go="$$($(tool) -n protoc-gen-go)" --go_out=$(1) --go_opt=paths=source_relative \
	--plugin=protoc-gen-connect-go="$$($(tool) -n protoc-gen-connect-go)" --connect-go_out=$(1) --connect-go_opt=paths=source_relative,package_suffix \
	$(protos)
endef
