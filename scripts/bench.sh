#!/bin/sh
# `make bench`: times, memory and processor use, each beside `ctr run -d` on the same machine in the same run. Prints; does not judge.
# ROUNDS=n (20), IDLE_SECONDS=n (60), ONLY=word (start, network, update, kill, remove, agent, many, import).
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root bench
scripts/setup.sh test
cargo build --release --quiet --workspace
# The container's program is static, so that its first instruction is not a dynamic loader's.
cargo rustc --release --quiet --package tests --bin stamp -- -C target-feature=+crt-static
echo "bench: $(containerd --version), $(runc --version | head -n 1), kernel $(uname -r), $(nproc) processors, load $(cut -d ' ' -f 1 /proc/loadavg)"
DAEMONLET_TEST_BIN_DIR=$top/target/release exec target/release/bench
