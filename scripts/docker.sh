#!/bin/sh
# Fetches this Debian release's Docker and unpacks it under target/docker, so that the suite about neighbours can run one beside a node.
# Nothing is installed and nothing is started: the package would start a daemon on the machine itself. Prints the directory of programs.
set -eu
cd "$(dirname "$0")/.."
place=$PWD/target/docker
if [ ! -x "$place/usr/sbin/dockerd" ] || [ ! -x "$place/usr/bin/docker" ]; then
    rm -rf "$place.work" && mkdir -p "$place.work/root"
    # A machine whose package lists are empty has no candidate of anything.
    apt-cache policy docker.io 2>/dev/null | grep -q "Candidate: [0-9]" || apt-get -q update >/dev/null 2>&1 || true
    # Debian 12 has the client in docker.io, later releases in a package of its own.
    packages=docker.io
    apt-cache policy docker-cli 2>/dev/null | grep -q "Candidate: [0-9]" && packages="$packages docker-cli"
    # The words are meant to be split.
    # shellcheck disable=SC2086
    if ! (cd "$place.work" && apt-get -q -o APT::Sandbox::User=root download $packages &&
        for package in *.deb; do dpkg -x "$package" root; done) >"$place.log" 2>&1; then
        echo "docker: it could not be fetched, so the suite about neighbours skips it; see $place.log" >&2
        exit 0
    fi
    rm -rf "$place" && mv "$place.work/root" "$place" && rm -rf "$place.work"
fi
if ldd "$place/usr/sbin/dockerd" | grep -q 'not found'; then
    echo "docker: libraries that it needs are not installed, so the suite about neighbours skips it" >&2
    exit 0
fi
ln -sf ../sbin/dockerd ../sbin/docker-proxy "$place/usr/bin/"
echo "docker: $("$place/usr/sbin/dockerd" --version)" >&2
echo "$place/usr/bin"
