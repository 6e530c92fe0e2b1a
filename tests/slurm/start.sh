#!/usr/bin/env bash
# A Slurm of one node, this machine, for tests: `tests/slurm/start.sh [FOLDER]` as root on Debian or Ubuntu.
#
# Everything (configuration, key, sockets, state, logs) is in FOLDER, by default /tmp/kimi_audio_ft_slurm; the system's
# own /etc/slurm and /etc/munge are neither read nor written. Started again, it does nothing. See README.md beside it.
set -euo pipefail

folder=${1:-/tmp/kimi_audio_ft_slurm}
host=$(hostname -s)
export SLURM_CONF="$folder/slurm.conf"
PATH="$PATH:/usr/sbin:/sbin"

say() { echo "slurm: $*"; }

running() { [ -s "$1" ] && [ -e "/proc/$(cat "$1")/exe" ]; }  # a zombie has no exe

install_packages() {
    if command -v sbatch munged slurmctld slurmd >/dev/null; then
        return
    fi
    say "installing munge and slurm-wlm"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        munge slurmctld slurmd slurm-client >/dev/null
}

configure() {
    mkdir -p "$folder"/{state,spool,log,munge}
    chmod 755 "$folder"
    chown -R munge: "$folder/munge"
    chmod 755 "$folder/munge"  # munged wants its socket to be reachable by all
    if [ ! -s "$folder/munge/key" ]; then
        (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
        chown munge: "$folder/munge/key"
    fi
    local memory
    memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
    # Two partitions over one node: a job of `urgent` preempts jobs of `normal`, which are queued again.
    # cred_expire is also how long a requeued job waits before it may start again (120 s by default).
    cat >"$SLURM_CONF" <<CONF
ClusterName=kimi_audio_ft
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$memory
PartitionName=normal Nodes=$host Default=YES PriorityTier=1 GraceTime=30 MaxTime=1-0
PartitionName=urgent Nodes=$host PriorityTier=2 PreemptMode=OFF MaxTime=1-0
CONF
}

start_daemons() {
    if ! running "$folder/munge/pid"; then
        runuser -u munge -- munged --socket="$folder/munge/socket" --key-file="$folder/munge/key" \
            --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
        say "munged started"
    fi
    running "$folder/slurmctld.pid" || { slurmctld && say "slurmctld started"; }
    running "$folder/slurmd.pid" || { slurmd && say "slurmd started"; }
}

wait_until_idle() {
    for _ in $(seq 150); do
        if sinfo --noheader --format=%T 2>/dev/null | grep -qE '^(idle|mixed|allocated)$'; then
            return
        fi
        sleep 0.2
    done
    say "the node is not ready after 30 s; see $folder/log" >&2
    sinfo >&2
    exit 1
}

if [ "$(id -u)" != 0 ]; then
    say "must be started by root" >&2
    exit 1
fi
install_packages
[ -s "$SLURM_CONF" ] || configure
start_daemons
wait_until_idle
say "ready; use it with: export SLURM_CONF=$SLURM_CONF"
