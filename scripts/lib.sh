# shellcheck shell=sh disable=SC2034,SC2154
# Shared by run.sh and stop.sh: where `make run` keeps things, and how its processes are told from everybody else's. Sourced with the
# project's top directory as working directory.

top=$PWD
run=$top/.run

# Own names, so that a daemonlet that runs as a service on the same machine is never touched, nor one of another clone: the containerd
# namespace, under which all containerd instances of a machine share runc's state, and the cgroup root.
number=$(printf '%s' "$run" | cksum | cut -d ' ' -f 1)
namespace=daemonlet-run-$number
cgroup_root=daemonlet_run_$number

# A socket's path holds at most 107 bytes, and containerd adds ".ttrpc" to its own.
if [ ${#run} -gt 80 ]; then
    sockets=/run/daemonlet-run-$number
else
    sockets=$run/s
fi

# sudo replaces PATH and HOME, and Rust is usually installed for the person who typed it.
if ! command -v cargo >/dev/null && [ -n "${SUDO_USER:-}" ]; then
    home=$(getent passwd "$SUDO_USER" | cut -d : -f 6)
    if [ -x "$home/.cargo/bin/cargo" ]; then
        PATH=$home/.cargo/bin:$PATH
        RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
        export PATH RUSTUP_HOME
    fi
fi

die() {
    echo "$0: $*" >&2
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "root is needed to start containers. Try: sudo make $1"
}

# The start time of a living process, field 22 of proc_pid_stat(5): with the id it names a process for ever. Nothing for a zombie.
start_time() {
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" { print $20 }'
}

# record NAME PID: remembers a process that we started.
record() {
    mkdir -p "$run/pids"
    echo "$2 $(start_time "$2")" >"$run/pids/$1"
}

# recorded NAME: its id, if that very process still lives.
recorded() {
    [ -s "$run/pids/$1" ] || return 1
    read -r pid start <"$run/pids/$1"
    [ -n "$start" ] && [ "$(start_time "$pid")" = "$start" ] && echo "$pid"
}

# end_process PID SECONDS: SIGTERM, then SIGKILL after so many seconds; returns when it is gone.
end_process() {
    began=$(start_time "$1")
    [ -n "$began" ] || return 0
    kill -TERM "$1" 2>/dev/null || true
    tries=$(($2 * 20))
    while [ "$(start_time "$1")" = "$began" ]; do
        [ "$tries" -gt 0 ] || kill -KILL "$1" 2>/dev/null || true
        [ "$tries" -gt -200 ] || die "process $1 does not end even after SIGKILL"
        tries=$((tries - 1))
        sleep 0.05
    done
}

# Ids of processes with this text in an argument: for those that containerd and the agent started in our name and with our own paths.
with_argument() {
    for dir in /proc/[0-9]*; do
        [ "${dir#/proc/}" = "$$" ] && continue
        # A process may end between the listing and the look.
        if { tr '\0' '\n' <"$dir/cmdline" | grep -qxF -e "$1"; } 2>/dev/null; then
            echo "${dir#/proc/}"
        fi
    done
}

# start_agent PROGRAM MANIFESTS [FLAG…]: with all that is the same whenever it is started here.
start_agent() {
    program=$1
    manifests=$2
    shift 2
    setsid "$program" agent --run-dir "$sockets" --state-dir "$run/state" --log-dir "$run/log" \
        --manifest-dir "$manifests" --image-dir "$run/images" \
        --containerd "$containerd_socket" --containerd-namespace "$namespace" --cgroup-root "$cgroup_root" \
        ${listen:+--listen "$listen"} "$@" >>"$run/agent.log" 2>&1 </dev/null &
    record agent $!
}

ctr_run() {
    timeout 20 ctr --address "$containerd_socket" --namespace "$namespace" "$@"
}
