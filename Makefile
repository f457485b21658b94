# The only entry for people and for CI. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
PROGRAMS := fairlead-controller fairlead-speaker fairlead-node-agent
PROGRAM_PATHS := $(PROGRAMS:%=target/release/%)
# The parent of the BGP daemon, and the daemon itself, in an image of their own. The version is that of the Go module.
BGP_PROGRAM_PATH := target/release/fairlead-bgpd
GOBGP_VERSION := v4.8.0
# What the image is made with, and what the network namespace tests use; the lab installs what it needs itself.
IMAGE_PACKAGES := buildah
NETNS_PACKAGES := iproute2 nftables iputils-arping iputils-ping ndisc6 conntrack socat frr bird2
CARGO_DENY := 0.20.2
LAB := target/debug/lab
# Names of the labs that the demo, the tests and the benchmarks bring up.
DEMO_LAB := demo
TEST_LAB := test
BENCH_LAB := bench
SOAK_LAB := soak

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##### Main job

.PHONY: demo
demo: image $(LAB) ## Bring up a cluster on this machine, install Fairlead, curl an external IP, and cordon its node
	target/debug/demo --name $(DEMO_LAB)

.PHONY: demo-down
demo-down: ## End the demo's cluster
	@$(CARGO) build -q -p fairlead-e2e --bins
	$(LAB) down --name $(DEMO_LAB)

##### Tests

.PHONY: test
test: unit netns e2e ## All tests: unit, property, network namespaces, and end to end on a cluster of their own

.PHONY: unit
unit: ## Unit and property tests (no root needed)
	$(CARGO) test -q --workspace

.PHONY: netns
netns: gobgpd ## Tests with real packets in network namespaces (root)
	@scripts/packages.sh $(NETNS_PACKAGES)
	scripts/twice.sh $(CARGO) test -q -p fairlead-speaker -p fairlead-node-agent -p fairlead-bgpd --features fairlead-speaker/netns,fairlead-node-agent/netns,fairlead-bgpd/netns --tests --no-fail-fast -- --test-threads=2

.PHONY: e2e
e2e: images $(LAB) ## End-to-end tests on a lab of their own, which is taken down afterwards (root)
	$(CARGO) test -q -p fairlead-e2e --features cluster --no-run
	trap '$(LAB) down --name $(TEST_LAB)' EXIT; \
	$(LAB) up --name $(TEST_LAB); \
	FAIRLEAD_LAB=$(TEST_LAB) scripts/twice.sh $(CARGO) test -p fairlead-e2e --features cluster --tests --no-fail-fast -- --test-threads=1 --nocapture

.PHONY: soak-ipam
soak-ipam: ## A million random steps of simulated address management (FAIRLEAD_IPAM_STEPS for another number)
	$(CARGO) test -q --release -p fairlead-core simulation::soak -- --ignored --nocapture

.PHONY: soak
soak: images ## Random faults for an hour (SOAK_SECONDS), and a witness on the wire, on a lab of their own (root)
	$(CARGO) build --release -p fairlead-e2e --bins
	trap 'target/release/lab down --name $(SOAK_LAB)' EXIT; \
	target/release/soak --name $(SOAK_LAB) $(ARGS)

.PHONY: fuzz
fuzz: ## Fuzz what reads texts of users and frames from the wire, a minute each (FUZZ_SECONDS)
	scripts/fuzz.sh

##### Benchmarks

# Arguments of a benchmark's program, such as `make bench-controller ARGS="--services 1000"`.
ARGS ?=

.PHONY: bench-controller
bench-controller: images ## Addresses for 10 000 Services: Fairlead's controller and MetalLB's, on a lab of their own (root)
	$(CARGO) build --release -p fairlead-e2e --bins
	trap 'target/release/lab down --name $(BENCH_LAB)' EXIT; \
	target/release/bench_controller --name $(BENCH_LAB) $(ARGS)

.PHONY: bench-failover
bench-failover: images ## What a client notices of faults: Fairlead and MetalLB, on a lab of their own (root)
	$(CARGO) build --release -p fairlead-e2e --bins
	trap 'target/release/lab down --name $(BENCH_LAB)' EXIT; \
	target/release/bench_failover --name $(BENCH_LAB) $(ARGS)

.PHONY: bench-failover-bgp
bench-failover-bgp: images ## The same with BGP and a router that spreads over the nodes (ARGS="--scale": 10 000 addresses) (root)
	$(CARGO) build --release -p fairlead-e2e --bins
	trap 'target/release/lab down --name $(BENCH_LAB)-bgp' EXIT; \
	target/release/bench_failover_bgp --name $(BENCH_LAB)-bgp $(ARGS)

.PHONY: bench-speaker
bench-speaker: images ## What idle speakers cost with 1000 Services, on a lab of their own (root)
	$(CARGO) build --release -p fairlead-e2e --bins
	trap 'target/release/lab down --name $(BENCH_LAB)' EXIT; \
	target/release/bench_speaker --name $(BENCH_LAB) $(ARGS)

.PHONY: bench-datapath
bench-datapath: ## The node agent and kube-proxy with 10 000 Services: syncs, changes, CPU, memory, connections (root)
	@scripts/packages.sh nftables
	$(CARGO) build --release -p fairlead-node-agent
	$(CARGO) build --release -p fairlead-e2e --bins
	trap 'target/release/lab down --name $(BENCH_LAB)-datapath' EXIT; \
	target/release/bench_datapath --name $(BENCH_LAB)-datapath $(ARGS)

.PHONY: bench-ipam
bench-ipam: ## What address management costs with 10000 Services
	$(CARGO) bench -q -p fairlead-core --features testing --bench ipam

.PHONY: bench-decide
bench-decide: ## What one change costs the speaker with 10 000 addresses announced by BGP
	$(CARGO) bench -q -p fairlead-speaker --bench decide -- $(ARGS)

.PHONY: bench-probes
bench-probes: ## What probing 1000 targets costs a node: CPU time and memory
	$(CARGO) bench -q -p fairlead-speaker --bench probes -- $(ARGS)

##### Building

.PHONY: build
build: ## Build all programs (debug)
	$(CARGO) build --workspace

.PHONY: images
images: image image-gobgp ## Build the OCI images: target/images/fairlead.tar and fairlead-gobgp.tar

.PHONY: image
image: $(PROGRAM_PATHS)
	@scripts/packages.sh $(IMAGE_PACKAGES)
	scripts/image.sh fairlead Dockerfile $(PROGRAM_PATHS)

.PHONY: image-gobgp
image-gobgp: $(BGP_PROGRAM_PATH) gobgpd
	@scripts/packages.sh $(IMAGE_PACKAGES)
	LICENSES=target/gobgpd/licenses scripts/image.sh fairlead-gobgp Dockerfile.gobgp $(BGP_PROGRAM_PATH) target/gobgpd/gobgpd target/gobgpd/gobgp

.PHONY: gobgpd
gobgpd: ## Build the BGP daemon from its Go module: target/gobgpd/gobgpd
	@scripts/gobgpd.sh $(GOBGP_VERSION)

# Cargo knows what is out of date.
.PHONY: $(PROGRAM_PATHS) $(BGP_PROGRAM_PATH) $(LAB)
$(PROGRAM_PATHS) &:
	$(CARGO) build --release $(PROGRAMS:%=-p %)

$(BGP_PROGRAM_PATH):
	$(CARGO) build --release -p $(notdir $@)

$(LAB):
	$(CARGO) build -p fairlead-e2e --bins

.PHONY: generate
generate: ## Write the CustomResourceDefinitions into the chart
	$(CARGO) run -q -p fairlead-api --bin crdgen -- charts/fairlead/templates/crds

##### Checks

.PHONY: check
check: fmt-check clippy generate-check deny chart-lint ## All checks that are not tests

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy: ## Lints, warnings as errors
	$(CARGO) clippy -q --workspace --all-targets --all-features -- -D warnings

.PHONY: generate-check
generate-check: generate
	@git diff --exit-code --stat -- charts/fairlead/templates/crds || { echo "generated files are stale: run 'make generate' and commit"; exit 1; }
	@test -z "$$(git ls-files --others --exclude-standard charts/fairlead/templates/crds)" || { echo "generated files are not committed"; exit 1; }

.PHONY: deny
deny: ## Licences, sources and duplicates of dependencies
	@$(CARGO) deny --version 2>/dev/null | grep -qx 'cargo-deny $(CARGO_DENY)' || $(CARGO) install -q --locked cargo-deny@$(CARGO_DENY)
	$(CARGO) deny --log-level error check bans licenses sources

.PHONY: deny-advisories
deny-advisories: ## Known vulnerabilities of dependencies (fetches the advisory database)
	$(CARGO) deny check advisories

.PHONY: chart-lint
chart-lint: $(LAB) ## Lint the chart and check its values schema
	LAB=$(LAB) scripts/chart-lint.sh

.PHONY: ci
ci: check test ## What must pass

.PHONY: clean
clean: ## Remove everything that was built here
	$(CARGO) clean
