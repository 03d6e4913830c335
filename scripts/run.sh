#!/bin/sh
# `make run`: from a fresh Debian machine with Rust to running daemons. Sets up, builds, starts a containerd of its own (unless
# CONTAINERD names the socket of one that runs), a control endpoint and the agent with manifests/, shows a table until every daemon is
# ready, and stays. LISTEN=127.0.0.1:PORT: where the agent's own port is taken. CONTROL_LISTEN, CONTROL_NODES_LISTEN: where the endpoint
# listens for clients and for nodes, in place of free ports of the loopback. Ctrl-C ends the table, not the daemons; `make stop` undoes
# everything.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root run

# An image is unpacked and two pods start within a second or two; a cold disk may take much longer.
READY_SECONDS=180

# A store of before is checked first, on a busy machine; a node joins within a second.
CONTROL_SECONDS=60

# BIN_DIR names a directory with programs that are built already, for those who work on the agent itself.
bin=${BIN_DIR:-$top/target/release}

show() {
    "$bin/daemonlet" --run-dir "$sockets" "$@"
}

# What is being pulled, with bars where a terminal draws them over and over.
pulls() {
    show get images 2>/dev/null | awk -v columns="$columns" -f scripts/pulls.awk || true
}

# The terminal's size, which may change: lines of it, and columns; a terminal that does not know is one of old.
measure() {
    { size=$(stty size <&3 2>/dev/null) || size=; } 3>&1
    lines=${size% *} columns=${size#* }
    [ "${lines:-0}" -gt 1 ] || lines=24
    [ "${columns:-0}" -gt 1 ] || columns=80
}

# start_control API NODES: the endpoint, until it answers; says why not where it does not. A port 0 is any free one; it keeps those that it
# has got, because the agent and people's kubeconfigs know them.
start_control() {
    : >>"$run/control.log"
    before=$(wc -l <"$run/control.log")
    # The line with the addresses is wanted, whatever else is to be logged.
    DAEMONLET_LOG=${DAEMONLET_LOG:-info},control::serve=info setsid "$bin/daemonlet-control" serve --data-dir "$run/control" \
        --listen "$1" --nodes-listen "$2" >>"$run/control.log" 2>&1 </dev/null &
    record control $!
    tries=0
    until ready=$(tail -n "+$((before + 1))" "$run/control.log" | grep "the control endpoint is ready"); do
        recorded control >/dev/null || return 1
        tries=$((tries + 1))
        [ "$tries" -lt $((CONTROL_SECONDS * 10)) ] || return 1
        sleep 0.1
    done
    echo "$ready" | sed "s/.* api=\([^ ]*\) nodes=\([^ ]*\).*/control_api='\1'\ncontrol_nodes='\2'/" >"$run/control.env"
}

# Where the endpoint listened last, if it ever did.
control_addresses() {
    control_api=
    control_nodes=
    # shellcheck source=/dev/null
    [ ! -s "$run/control.env" ] || . "$run/control.env"
}

scripts/setup.sh run
if [ -z "${BIN_DIR:-}" ]; then
    echo "run: building (the first time takes some minutes)"
    cargo build --release --workspace --bin daemonlet --bin daemonlet-logkeeper --bin daemonlet-control --bin stand-in-image
fi

mkdir -p "$run"
if control=$(recorded control); then
    echo "run: the control endpoint runs already (process $control)"
else
    control_addresses
    api=${CONTROL_LISTEN:-${control_api:-127.0.0.1:0}}
    nodes=${CONTROL_NODES_LISTEN:-${control_nodes:-127.0.0.1:0}}
    # Whoever took a port meanwhile may keep it, unless it was asked for by name.
    start_control "$api" "$nodes" || start_control "${CONTROL_LISTEN:-127.0.0.1:0}" "${CONTROL_NODES_LISTEN:-127.0.0.1:0}" || {
        tail -n 20 "$run/control.log" >&2
        die "the control endpoint does not start; its log is $run/control.log"
    }
fi
control_addresses
# What listens everywhere is found on the loopback too.
control_url=https://$(echo "$control_nodes" | sed 's/^\(\[::\]\|0\.0\.0\.0\):/127.0.0.1:/')

# An agent of another endpoint, or of none, is started again; its daemons do not notice.
if agent=$(recorded agent) && ! with_argument "$control_url" | grep -qx "$agent"; then
    echo "run: the agent is started again, with the control endpoint"
    end_process "$agent" 15
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
    listen=${LISTEN:-}
    printf "containerd_socket='%s'\nlisten='%s'\nprogram='%s'\n" "$containerd_socket" "$listen" "$bin/daemonlet" >"$run/env"
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
    # Read when the agent joins, which it does once.
    (umask 077 && "$bin/daemonlet-control" token create --ttl 1h --data-dir "$run/control" >"$run/join-token")
    start_agent "$bin/daemonlet" "$run/manifests" --control "$control_url" --join-token-file "$run/join-token"
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
    columns=0
    [ -z "$live" ] || measure
    pulling=$(pulls)
    # A pull takes as long as its link needs; what counts is the time after it.
    [ -z "$pulling" ] || began=$(date +%s)
    if [ -n "$live" ]; then
        # Folded here and not by the terminal, and never higher than it: what scrolled away cannot be drawn over. Its last lines count.
        shown=$(printf '%s\n' "$table${pulling:+
$pulling}" | fold -w "$columns" | tail -n $((lines - 1)))
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

# The node is in session with the endpoint once it has joined.
tries=0
until show get node -o json 2>/dev/null | grep -q '"connected": true'; do
    recorded agent >/dev/null || { tail -n 30 "$run/agent.log" >&2; die "the agent ended; its log is $run/agent.log"; }
    tries=$((tries + 1))
    [ "$tries" -lt $((CONTROL_SECONDS * 5)) ] || die "the agent does not reach the control endpoint; see $run/agent.log and $run/control.log"
    sleep 0.2
done

# A document that was refused has no pod in the table: what is said of every workload tells.
echo
show why || true
cat <<TEXT

Every pod is running; the lines above say what becomes of every document. In another terminal:
  $bin/daemonlet --run-dir $sockets get pods       (describe pod, logs, why, doctor, …)
  put a manifest into $top/manifests and see its pod start; kill anything and see it come back
The control endpoint knows this node, and kubectl the control endpoint:
  export KUBECONFIG=$run/control/admin.kubeconfig
  kubectl get nodes
  kubectl get pods --all-namespaces
TEXT
command -v kubectl >/dev/null || echo "  (kubectl is not on this machine: apt-get install kubernetes-client)"
cat <<TEXT
make stop ends and removes everything; Ctrl-C ends this display only.
TEXT
control=$(recorded control) || true
while recorded agent >/dev/null; do
    if [ -n "$control" ] && ! recorded control >/dev/null; then
        echo "run: the control endpoint has ended; the daemons run on. make run starts it again. Log: $run/control.log"
        control=
    fi
    sleep 1
done
echo "run: the agent has ended; the daemons run on. make run starts it again, make stop removes everything. Log: $run/agent.log"
