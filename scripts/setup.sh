#!/bin/sh
# Installs the Debian packages that this project's commands need, and only those that are missing.
# Usage: setup.sh [build|run|test|machine|fuzz]...   (default: run). Debian 12 and 13. Never removes or upgrades a package.
# The lists below are words that are meant to be split.
# shellcheck disable=SC2086
set -eu

# What each command needs. libc and a C compiler come with Rust's own set-up but are named, because linking needs them.
BUILD_PACKAGES="protobuf-compiler libprotobuf-dev gcc libc6-dev"
RUN_PACKAGES="$BUILD_PACKAGES containerd runc containernetworking-plugins busybox-static iptables iproute2 util-linux procps"
TEST_PACKAGES="$RUN_PACKAGES curl python3 python3-pip python3-kubernetes dbus-daemon"
MACHINE_PACKAGES="debootstrap e2fsprogs"
# libFuzzer is C++.
FUZZ_PACKAGES="g++"

die() {
    echo "setup: $*" >&2
    exit 1
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}

missing() {
    for package in "$@"; do
        installed "$package" || printf '%s ' "$package"
    done
}

need_root() {
    [ "$(id -u)" = 0 ] || die "root is needed to install: $1. Run the same command as root (sudo make …)."
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"
}

install() {
    wanted=$(missing "$@")
    [ -n "$wanted" ] || return 0
    need_root "$wanted"
    echo "setup: installing $wanted"
    apt update >/dev/null
    # Debian's packages do not start containerd where systemd is not running.
    apt --no-install-recommends --no-remove install $wanted >/dev/null
}

# Debian 12's own qemu refuses to live beside newer qemu-utils, which many images carry; its backports fit. The mirror is the
# machine's own: every source that offers the main suite is repeated with the backports suite (which apt ranks low by itself).
add_backports() {
    codename=$1
    target=/etc/apt/sources.list.d/daemonlet-backports.sources
    grep -rqs "$codename-backports" /etc/apt/sources.list /etc/apt/sources.list.d && return 0
    need_root "the suite $codename-backports"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        awk -v suite="$codename" '
            BEGIN { RS = ""; ORS = "\n\n" }
            $0 ~ "(^|\n)Suites:[^\n]*[ \t]" suite "([ \t\n]|$)" {
                sub(/Suites:[^\n]*/, "Suites: " suite "-backports"); print
            }' "$file"
    done >"$target"
    if [ ! -s "$target" ] && [ -f /etc/apt/sources.list ]; then
        rm -f "$target"
        target=/etc/apt/sources.list.d/daemonlet-backports.list
        awk -v suite="$codename" '$1 == "deb" {
            for (i = 2; i <= NF; i++) if ($i == suite) { $i = suite "-backports"; print; break }
        }' /etc/apt/sources.list >"$target"
    fi
    [ -s "$target" ] || { rm -f "$target"; die "no apt source of suite $codename found to derive its backports from"; }
}

install_qemu() {
    command -v qemu-system-x86_64 >/dev/null && return 0
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [ "$codename" = bookworm ]; then
        add_backports "$codename"
        need_root qemu-system-x86
        echo "setup: installing qemu-system-x86 from $codename-backports"
        apt update >/dev/null
        apt --no-install-recommends --no-remove -t "$codename-backports" install qemu-system-x86 >/dev/null
    else
        install qemu-system-x86
    fi
}

# unpack PACKAGE PROGRAM: a Debian package for the tests, unpacked under target/ and not installed: installing it would start a server.
unpack() {
    place=$top/target/$1
    if command -v "$2" >/dev/null || [ -x "$place/usr/bin/$2" ]; then
        return 0
    fi
    need_root "$1 (unpacked under target/)"
    echo "setup: fetching $1 into target/"
    rm -rf "$place.work"
    mkdir -p "$place.work/root"
    (
        cd "$place.work"
        apt update >/dev/null
        apt -o APT::Sandbox::User=root download "$1" >/dev/null
        dpkg -x "$1"_*.deb root
    ) || die "$1 could not be fetched from this machine's apt sources"
    rm -rf "$place"
    mv "$place.work/root" "$place"
    rm -rf "$place.work"
}

top=$(cd "$(dirname "$0")/.." && pwd)
[ -r /etc/debian_version ] || die "this is not Debian. Install by hand: $RUN_PACKAGES"
for words in "${@:-run}"; do
    case $words in
    build) install $BUILD_PACKAGES ;;
    run) install $RUN_PACKAGES ;;
    test)
        install $TEST_PACKAGES
        unpack docker-registry docker-registry
        unpack etcd-server etcd
        ;;
    machine)
        install $MACHINE_PACKAGES
        install_qemu
        ;;
    fuzz) install $FUZZ_PACKAGES ;;
    *) die "unknown word $words (build, run, test, machine or fuzz)" ;;
    esac
done
command -v cargo >/dev/null || die "cargo is not installed: install Rust with rustup, then try again"
