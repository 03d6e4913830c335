#!/bin/sh
# `make bench`: times, memory and processor use, each beside `ctr run -d` and podman on the same machine in the same run. Prints; does not
# judge. Some 20 minutes on 2 processors, and 10 more to build everything the first time.
# ROUNDS=n (20), LARGE_ROUNDS=n (5, of what moves much), IDLE_SECONDS=n (60), ONLY=word (start, network, update, kill, remove, agent, many,
# import, pull-large, pull-layers, pull-crowd, pull-swap, pull-cut, shims, control, fleet), NODES=n (1000, of fleet).
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root bench

# A load above this disturbs times of some 60 ms; a build of just now is given this long to be forgotten.
LOAD_MAX=0.5
QUIET_SECONDS=180

# The Rust shim of containerd's own project, a rival of its Go shim.
SHIM_VERSION=0.2.0

load() { cut -d ' ' -f 1 /proc/loadavg; }
quiet() { load | awk -v max="$LOAD_MAX" '{ exit !($1 <= max) }'; }

# Whether ONLY lets this measurement be.
wanted() {
    case $1 in
    *"${ONLY:-}"*) ;;
    *) return 1 ;;
    esac
}

# Built from the crates registry once, in some minutes. Without it, or without a containerd 2.x, its rows are left out.
rust_shim() {
    place=$top/target/runc-shim
    if [ ! -x "$place/bin/containerd-shim-runc-v2-rs" ]; then
        echo "bench: building the Rust shim (containerd-runc-shim $SHIM_VERSION) into target/, which takes some minutes" >&2
        if ! cargo install --quiet --root "$place" --target-dir "$place/build" --version "$SHIM_VERSION" containerd-runc-shim >"$place.log" 2>&1; then
            echo "bench: the Rust shim could not be built, so its rows are left out; see $place.log" >&2
            return
        fi
        rm -rf "$place/build"
    fi
    echo "$place/bin/containerd-shim-runc-v2-rs"
}

scripts/setup.sh test
cargo build --release --quiet --workspace
# The container's program is static, so that its first instruction is not a dynamic loader's.
cargo rustc --release --quiet --package tests --bin stamp -- -C target-feature=+crt-static
cargo build --profile measure --quiet --package tests --bin bench
if wanted shims; then
    DAEMONLET_BENCH_CONTAINERD2=$(scripts/containerds.sh sid)
    DAEMONLET_BENCH_RUST_SHIM=$(rust_shim)
    export DAEMONLET_BENCH_CONTAINERD2 DAEMONLET_BENCH_RUST_SHIM
fi
DAEMONLET_BENCH_PODMAN=$(scripts/podman.sh)
export DAEMONLET_BENCH_PODMAN

case $DAEMONLET_BENCH_PODMAN in
'') podman="no podman" ;;
/) podman=$(podman --version) ;;
*) podman="podman $(cat "$DAEMONLET_BENCH_PODMAN/version")" ;;
esac
echo "bench: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) processors, $(awk '/^MemTotal/ { printf "%.0f GB", $2 * 1024 / 1e9 }' /proc/meminfo), kernel $(uname -r)"
echo "bench: daemonlet $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(containerd --version), $(runc --version | head -n 1), $podman"

waited=0
until quiet || [ "$waited" -ge "$QUIET_SECONDS" ]; do
    sleep 5
    waited=$((waited + 5))
done
echo "bench: load $(load) after a wait of $waited s"
quiet || echo "bench: THE MACHINE IS NOT IDLE (load above $LOAD_MAX): the figures are disturbed; only the ratios mean something"
DAEMONLET_TEST_BIN_DIR=$top/target/release exec target/measure/bench
