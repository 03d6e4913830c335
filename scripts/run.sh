#!/bin/sh
# `make run`: from a fresh Debian machine with Rust to running daemons. Sets up, builds, starts a containerd of its own (unless
# CONTAINERD names the socket of one that runs) and the agent with manifests/, shows a table until every daemon is ready, and stays.
# LISTEN=127.0.0.1:PORT: where the agent's own port is taken. Ctrl-C ends the table, not the daemons; `make stop` undoes everything.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root run

# An image is unpacked and two pods start within a second or two; a cold disk may take much longer.
READY_SECONDS=180

# BIN_DIR names a directory with programs that are built already, for those who work on the agent itself.
bin=${BIN_DIR:-$top/target/release}

show() {
    "$bin/daemonlet" --run-dir "$sockets" "$@"
}

# A line for each image that is being pulled, with a bar where a terminal draws it over and over.
pulls() {
    show get images 2>/dev/null | awk -v live="$live" '
        match($0, /(Pulling|BackOff): /) {
            name = $1
            said = substr($0, RSTART)
            sub(/ +<none> *$/, "", said)
            percent = said
            sub(/^[A-Za-z]+: /, "", percent)
            if (live && percent ~ /^[0-9]+%/) {
                bar = ""
                for (i = 5; i <= 100; i += 5) bar = bar (i <= percent + 0 ? "#" : "-")
                printf "[%s] %s  %s\n", bar, name, percent
            } else if (percent ~ /^[0-9]+%/) {
                # A line for each tenth, not for each look.
                printf "%s  Pulling: %d%%\n", name, int(percent / 10) * 10
            } else {
                printf "%s  %s\n", name, said
            }
        }' || true
}

scripts/setup.sh run
if [ -z "${BIN_DIR:-}" ]; then
    echo "run: building (the first time takes some minutes)"
    cargo build --release --workspace --bin daemonlet --bin daemonlet-logkeeper --bin stand-in-image
fi

if agent=$(recorded agent); then
    # shellcheck source=/dev/null
    . "$run/env"
    echo "run: the agent runs already (process $agent)"
else
    mkdir -p "$run/images" "$run/empty" "$sockets"
    if [ -n "${CONTAINERD:-}" ]; then
        [ -S "$CONTAINERD" ] || die "CONTAINERD=$CONTAINERD is not a socket"
        containerd_socket=$CONTAINERD
    else
        containerd_socket=$sockets/containerd.sock
    fi
    echo "containerd_socket='$containerd_socket'" >"$run/env"
    ln -sfn "$top/manifests" "$run/manifests"

    if [ -z "${CONTAINERD:-}" ] && ! recorded containerd >/dev/null; then
        mkdir -p "$run/containerd"
        cat >"$run/containerd/config.toml" <<CONFIG
version = 2
root = "$run/containerd/root"
state = "$run/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$containerd_socket"
[plugins."io.containerd.internal.v1.opt"]
  path = "$run/containerd/opt"
CONFIG
        setsid containerd -c "$run/containerd/config.toml" >>"$run/containerd.log" 2>&1 </dev/null &
        record containerd $!
    fi
    tries=0
    until ctr_run version >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || { tail -n 20 "$run/containerd.log" >&2; die "containerd does not answer on $containerd_socket"; }
        sleep 0.1
    done

    "$bin/stand-in-image" "$run/images"
    setsid "$bin/daemonlet" agent --run-dir "$sockets" --state-dir "$run/state" --log-dir "$run/log" \
        --manifest-dir "$run/manifests" --image-dir "$run/images" \
        --containerd "$containerd_socket" --containerd-namespace "$namespace" --cgroup-root "$cgroup_root" \
        ${LISTEN:+--listen "$LISTEN"} \
        >>"$run/agent.log" 2>&1 </dev/null &
    record agent $!
fi

# The table is drawn again every half second, over itself where it goes to a terminal, until every pod shows all its containers ready.
began=$(date +%s)
drawn=0
before=
before_pulls=
# Nothing is drawn over where nobody looks, or where NO_COLOR asks for plain lines.
live=
[ ! -t 1 ] || [ -n "${NO_COLOR:-}" ] || live=1
while :; do
    recorded agent >/dev/null || { tail -n 30 "$run/agent.log" >&2; die "the agent ended; its log is $run/agent.log"; }
    # Exit code 3: the agent does not answer yet.
    code=0
    table=$(show get pods 2>&1) || code=$?
    [ "$code" != 3 ] || table="the agent is starting"
    pulling=$(pulls)
    # A pull takes as long as its link needs; what counts is the time after it.
    [ -z "$pulling" ] || began=$(date +%s)
    if [ -n "$live" ]; then
        shown=$table${pulling:+
$pulling}
        if [ "$shown" != "$before" ]; then
            [ "$drawn" = 0 ] || printf '\033[%dA\033[J' "$drawn"
            printf '%s\n' "$shown"
            drawn=$(printf '%s\n' "$shown" | wc -l)
            before=$shown
        fi
    else
        [ "$table" = "$before" ] || printf '%s\n' "$table"
        [ -z "$pulling" ] || [ "$pulling" = "$before_pulls" ] || printf '%s\n' "$pulling"
        before=$table
        before_pulls=$pulling
    fi
    # NAMESPACE NAME READY STATUS RESTARTS AGE; READY is x/y.
    if [ "$code" = 0 ] && printf '%s\n' "$table" | awk '
        NR > 1 { pods++; split($3, n, "/"); if (n[1] != n[2] || $4 != "Running") waits++ }
        END { exit !(pods > 0 && !waits) }'; then
        break
    fi
    if [ $(($(date +%s) - began)) -gt "$READY_SECONDS" ]; then
        show why >&2 || true
        die "not every daemon is running after $READY_SECONDS s; see above, and $run/agent.log"
    fi
    sleep 0.5
done

# A document that was refused has no pod in the table: what is said of every workload tells.
echo
show why || true
cat <<TEXT

Every pod is running; the lines above say what becomes of every document. In another terminal:
  $bin/daemonlet --run-dir $sockets get pods       (describe pod, logs, why, doctor, …)
  put a manifest into $top/manifests and see its pod start; kill anything and see it come back
  make stop                                                  ends and removes everything
Ctrl-C ends this display only.
TEXT
while recorded agent >/dev/null; do
    sleep 1
done
echo "run: the agent has ended; the daemons run on. make run starts it again, make stop removes everything. Log: $run/agent.log"
