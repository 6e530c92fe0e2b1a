#!/usr/bin/env bash
# Ends what start.sh started, its jobs too, and removes the folder: `tests/slurm/stop.sh [FOLDER]` as root.
set -euo pipefail

folder=${1:-/tmp/kimi_audio_ft_slurm}
export SLURM_CONF="$folder/slurm.conf"
[ -s "$SLURM_CONF" ] || exit 0

end() {
    if [ -s "$1" ]; then
        local process
        process=$(cat "$1")
        kill "$process" 2>/dev/null || true
        for _ in $(seq 50); do
            [ -e "/proc/$process/exe" ] || break  # a zombie has no exe
            sleep 0.1
        done
    fi
}

timeout 5 scancel --signal=KILL --full --user=root 2>/dev/null || true  # without its controller Slurm would wait long
timeout 5 scancel --user=root 2>/dev/null || true
for _ in $(seq 350); do  # a job that is being cancelled has KillWait (30 s) to end
    [ -n "$(timeout 2 squeue --noheader 2>/dev/null)" ] || break
    sleep 0.1
done
end "$folder/slurmd.pid"
end "$folder/slurmctld.pid"
end "$folder/munge/pid"
rm -rf "$folder"
echo "slurm: stopped, $folder removed"
