# SPDX-License-Identifier: Apache-2.0

SHELL := /bin/sh
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help

CLOISTER_CACHE ?= /var/cache/cloister
export CLOISTER_CACHE
# What make deps brings comes first: it is there only when the machine's own Go is too old.
export PATH := $(CLOISTER_CACHE)/go/bin:$(PATH):/usr/sbin:/sbin
export GOTOOLCHAIN := local

FLAVOUR ?= small
# TESTS, REQUIRE, MAC and POLICY reach the tests through the environment, from a command line of
# make too: docs/testing.md.
FUZZTIME ?= 10s
PART ?=
PKG ?= ./...
DESTDIR ?=
PREFIX ?= /usr
BUILD := build
# The program that runs the stages of the tests.
STAGES := go build -o $(BUILD)/stages ./tests/stages/run && exec $(BUILD)/stages

.PHONY: help deps build guest clients test test-unit test-integration test-suite test-cri \
	test-docker test-engines test-apps test-k8s test-packages test-lab test-lab-fedora test-moby test-one fmt \
	tidy lint golden metrics-recording fuzz bench bench-lab soak cache cache-prune check demo install packages packages-twice \
	release release-twice vuln cluster-image uninstall clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what all targets need: the distribution's packages and, where Go is too old, Go
	@.ci/deps test

build: ## the programs, into build/
	@.ci/deps demo
	@.ci/build

guest: build ## the guest's kernel and initial image, into build/guest/$(FLAVOUR) (FLAVOUR=small or distro)
	@[ "$(FLAVOUR)" = distro ] || .ci/deps guest
	@$(BUILD)/cloister guest build --kernel=$(FLAVOUR) --output=$(BUILD)/guest/$(FLAVOUR)

clients: deps ## the foreign programs the tests use, into $(CLOISTER_CACHE)/clients
	@go run ./tests/clients/build

test: deps ## all tests; ends with the counts
	@$(STAGES) all

test-unit: deps ## unit tests with the race detector, and the rules about the tree
	@$(STAGES) unit arch

test-integration: deps ## the built programs against both containerds, QEMU and a guest
	@$(STAGES) machine integration files crash

test-suite: deps ## containerd's own client suite, compared with the expected results
	@$(STAGES) suite

test-cri: deps ## pods through CRI, and containerd's CRI suite
	@$(STAGES) cri

test-docker: deps ## Docker's daemon and command line, and nerdctl's contract
	@$(STAGES) docker

test-engines: deps ## the OCI command line, by every engine that calls one
	@$(STAGES) engines engines-docker engines-process

test-apps: deps ## databases, git, builds and servers of Debian beside runc
	@$(STAGES) apps

test-k8s: deps ## a cluster of one node, by kubectl; builds Kubernetes the first time
	@$(STAGES) k8s

# One lab, or the three of them when MAC says nothing.
LABS = $(if $(MAC),lab$(addprefix -,$(filter-out selinux,$(MAC))),lab lab-apparmor lab-none)
test-lab: deps ## hosts in a throwaway machine: MAC=selinux, apparmor or none, all without; POLICY= of SELinux
	@$(STAGES) $(LABS)

test-moby: build guest deps ## the suites of Docker's daemon, for hours; SUITES="network volume" runs those
	@go run ./tests/clients/build containerd runc dockerd docker moby
	@go test -count=1 -timeout 0 -v ./tests/moby -args -suite.packages="$(or $(SUITES),volume system bridge network container)"

test-packages: deps ## the packages on fresh Debian 12 and 13 with systemd, and lintian
	@$(STAGES) packages

test-lab-fedora: deps ## the same host with Fedora's conditions
	@$(STAGES) lab-fedora

# test-STAGE runs one stage of docs/testing.md with what it needs.
test-%: deps
	@$(STAGES) $*

test-one: ## one test without its stage: TESTS='^TestX$$' PKG=./oci; what it lacks is skipped unless REQUIRE= names it
	@go test -list "$${TESTS%%/*}" $(PKG) | grep -q '^Test' || { echo "test-one: no test of $(PKG) matches $$TESTS" >&2; exit 1; }
	@go test -count=1 -v -run "$${TESTS:?say which: make test-one TESTS='^TestX$$' PKG=./oci}" $(PKG)

fmt: ## format every Go file
	@git ls-files -z '*.go' | xargs -0 gofmt -w -s

tidy: ## go.mod and go.sum as the imports want them
	@go mod tidy

lint: deps ## golangci-lint, and the values on another system
	@$(STAGES) lint

# The suites have a flag -update as well: it runs them in guests and rewrites their results.
golden: deps ## rewrite the golden files; read the diff
	@go list -f '{{if .TestGoFiles}}{{.Dir}}{{end}}{{if .XTestGoFiles}} {{.Dir}}{{end}}' ./... | \
	tr ' ' '\n' | sort -u | while read -r dir; do \
		[ -n "$$dir" ] || continue; \
		[ ! -e "$$dir/suite_linux_test.go" ] || continue; \
		if grep -qs 'flag.Bool("update"' "$$dir"/*_test.go; then (cd "$$dir" && go test . -update); fi; \
	done
	@GOFLAGS= go -C tests/promql test . -update
	@git --no-pager diff --stat -- '*testdata*' docs

metrics-recording: build guest clients ## twenty minutes of sandboxes and their metrics; docs/metrics.svg is drawn from them
	@METRICS_RECORDING=$(CURDIR)/tests/promql/testdata/recording.txt go test -count=1 -timeout 60m -v -run MetricsRecording ./tests/bench

fuzz: deps ## every fuzz test for FUZZTIME each, or those of the pattern FUZZ=; FUZZJOBS=2 runs two at once
	@export CLOISTER_MINUTES=100000 FUZZTIME=$(FUZZTIME); $(STAGES) fuzz

# PART is some of cold, inside, tasks, process, concurrent, template, cpu and disks; without it, all
# of them run.
bench: build guest clients ## costs of starts, execs and files, beside runc and a bare QEMU; PART=; JSON into $$BENCH_JSON
	@go run ./tests/clients/build gvisor || echo 'gVisor is not built: the table has no column for it'
	@BENCH_PART='$(PART)' BENCH_RUNS=$${RUNS:-10} go test -count=1 -timeout 60m -v -run Bench ./tests/bench/...

bench-lab: build guest clients ## starts from a template beside cold ones under nested KVM; into $$BENCH_JSON beside what is there
	@BENCH_RUNS=$${RUNS:-10} MAC=$${MAC:-none} go test -count=1 -timeout 60m -v -run '^TestBenchTemplate$$' ./tests/lab

soak: build guest clients ## the whole load (CI does a tenth), or PART= of it: AtOnce, Crowd, Cycles, Execs, Pod, Restarts
	@CLOISTER_SOAK=1 go test -count=1 -timeout 0 -run 'Soak$(PART)' -v ./tests/crash/... ./tests/integration/...

cache: ## what was slow to build and is kept: sizes, and the days since it was used
	@go run ./tests/cache/list

cache-prune: ## take away what was not used for DAYS (30)
	@go run ./tests/cache/list -prune $${DAYS:-30}

check: build ## what this host offers to cloister
	@$(BUILD)/cloister check

demo: ## one container in its own guest (the distribution's kernel), under a private containerd; installs little
	@echo "demo: one to five minutes the first time, most of it downloads and the build; 10 to 20 s from then on"
	@$(MAKE) --no-print-directory guest FLAVOUR=distro
	@FLAVOUR=distro tests/demo/demo.sh

install: ## programs, guest image and config below DESTDIR
	@FLAVOUR=$(FLAVOUR) DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) .ci/install

packages: guest ## .deb and .rpm of what was built, into build/packages
	@FLAVOUR=$(FLAVOUR) .ci/packages

packages-twice: guest ## packages, made twice and compared
	@FLAVOUR=$(FLAVOUR) .ci/packages --twice

cluster-image: guest ## the image of the installer for Kubernetes, build/cluster/node.tar; IMAGE= names it
	@.ci/cluster-image

release: deps ## archives, packages, bills of materials, provenance and checksums, into build/release
	@FLAVOUR=$(FLAVOUR) .ci/release

release-twice: deps ## a release, built twice at different paths and compared
	@FLAVOUR=$(FLAVOUR) .ci/release --twice

vuln: deps ## known vulnerabilities of the code that the programs call; needs vuln.go.dev or GOVULNDB
	@.ci/vuln

uninstall: ## take away what install put there; a changed config stays
	@DESTDIR=$(DESTDIR) PREFIX=$(PREFIX) .ci/install --remove

clean: ## take away build/
	@rm -rf $(BUILD)
