# The few words that anyone needs. CI calls the same ones.
# `make` alone prints them.

SEEDS ?= 10000
ROUNDS ?= 200
CONTAINERD ?=
export CONTAINERD

.PHONY: help run stop test check bench deb machine torture sim fuzz

help:
	@echo 'make run              build, start a containerd of its own, a control endpoint and the agent with manifests/, show the daemons (root)'
	@echo '                      CONTAINERD=/path/to.sock uses a containerd that runs already'
	@echo 'make stop             undo everything that make run made (root)'
	@echo 'make test             every test, with the time each suite took (root)'
	@echo 'make check            format, lints, documentation, licences'
	@echo 'make bench            measure beside ctr and podman, about half an hour (root)'
	@echo 'make deb              Debian packages and static programs under target/'
	@echo 'make machine          boot Debian machines with the packages and test them there: their life, full disks, power cuts (root)'
	@echo 'make torture ROUNDS=n kill agent, containerd, shims and log keeper at random instants beside a daemon that prints a gigabyte a minute,'
	@echo '                      then look for leaks, doubles and lost lines (root)'
	@echo 'make sim SEEDS=n      drive the agent over a faulty fake runtime, and the endpoint over faulty nodes, from n seeds; a failing seed prints itself'
	@echo 'make fuzz             cargo-fuzz over every parser that reads what others wrote (SECONDS_EACH=60, TARGETS="pods patch")'

run:
	@scripts/run.sh

stop:
	@scripts/stop.sh

test:
	@scripts/test.sh

check:
	@scripts/check.sh

bench:
	@scripts/bench.sh

deb:
	@scripts/deb.sh

machine:
	@scripts/setup.sh test machine
	@cargo build --workspace
	@scripts/machine.sh

torture:
	@scripts/setup.sh test
	@cargo build --workspace
	CHATTY=1 ROUNDS=$(ROUNDS) cargo test --workspace --test torture -- --nocapture

sim:
	@scripts/setup.sh build
	SEEDS=$(SEEDS) cargo test --release --package daemonlet --test simulation -- --nocapture
	SEEDS=$(SEEDS) cargo test --release --package control --test simulation -- --nocapture

fuzz:
	@scripts/fuzz.sh
