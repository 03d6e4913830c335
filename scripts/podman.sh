#!/bin/sh
# Fetches Debian's podman, with what it needs and this machine lacks, and unpacks it under target/podman, so that `make bench` can measure
# beside it. Nothing is installed: the package would put a network configuration into /etc/cni/net.d, which is the machine's. Prints the
# directory that lies over / while it runs; `/` where podman is installed.
set -eu
cd "$(dirname "$0")/.."
top=$PWD
place=$top/target/podman

if command -v podman >/dev/null; then
    echo /
    exit
fi
if [ ! -x "$place/usr/bin/podman" ]; then
    work=$place.work
    rm -rf "$work"
    mkdir -p "$work/root"
    # What apt would install, without installing it: the packages that are missing, podman's own dependencies included.
    if ! {
        apt-get -q update &&
            apt-get -q -s --no-install-recommends install podman >"$work/plan" &&
            cd "$work" &&
            awk '$1 == "Inst" { print $2 }' plan | xargs apt-get -q -o APT::Sandbox::User=root download &&
            for package in *.deb; do dpkg -x "$package" root; done &&
            dpkg-deb --field podman_*.deb Version >root/version
    } >"$place.log" 2>&1 || [ ! -x "$work/root/usr/bin/podman" ]; then
        echo "podman: it could not be fetched, so its column stays empty; see $place.log" >&2
        exit
    fi
    cd "$top"
    rm -rf "$place"
    mv "$work/root" "$place"
    rm -rf "$work"
fi
echo "$place"
