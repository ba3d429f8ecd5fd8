#!/usr/bin/env bash
# Train on a SLURM cluster, on one node or many:
#
#     sbatch slurm/train.sh --config configs/bcresnet1.yaml --data.shards data/v2-35
#     sbatch --nodes=2 --gpus-per-node=4 --time=8:00:00 slurm/train.sh --config ...
#     sbatch --array=0-4 --gpus-per-node=1 slurm/train.sh --config ...      # five seeds
#
# Submit it in the folder of the repository. What stands behind train.sh goes to launch/train.py as it is. The lines
# below are defaults: what you give to sbatch counts more. slurm/README.md says what happens when.
#
# From the environment, where what is found does not suit (KWS_VENV=... sbatch slurm/train.sh ...):
#     KWS_VENV             folder of the virtual environment; by default .venv, if `accelerate` is not found without
#     KWS_PROCS_PER_NODE   processes on each node; by default one for each GPU, or one where the job has no GPUs
#     KWS_MAIN_ADDR        address at which all nodes reach the first one; by default SLURM's own address of it
#     KWS_MAIN_PORT        port on it; by default made of the job's number
#
#SBATCH --job-name=kws
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=4:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

readonly restart="${SLURM_RESTART_COUNT:-0}" nodes="${SLURM_JOB_NUM_NODES:-1}"
# The bare number of the last task of an array is that of the whole array.
readonly job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
readonly job_name="${job:-${SLURM_JOB_ID:-}}"

say() { echo "train.sh: $*"; }
die() { say "$1" >&2; exit "${2:-2}"; }

enter_environment() {
    [[ -f launch/train.py ]] || die "there is no launch/train.py in $PWD: submit in the folder of the repository, or with --chdir"
    [[ -n "$job_name" ]] || die "this runs inside a job: sbatch slurm/train.sh ..."
    if [[ -n "${KWS_VENV:-}" ]] || ! command -v accelerate >/dev/null; then
        local venv="${KWS_VENV:-.venv}"
        [[ -f "$venv/bin/activate" ]] || die "no accelerate here, and no virtual environment in $venv: name it in KWS_VENV"
        # shellcheck disable=SC1091
        source "$venv/bin/activate"
    fi
}

# The run folder as launch/train.py finds it: --run_dir, or what the file says, or runs/ and the name of the file.
run_folder() {
    python -c 'import sys; from kws_dist.config import parse, run_dir_of; print(run_dir_of(parse(sys.argv[1:])))' "$@"
}

# ---- stopping -------------------------------------------------------------------------------------------------------

asked=""
ask_to_stop() { asked=1; say "$(date +%T): $1, so the training is asked to save and stop"; }
trap 'ask_to_stop "the time is nearly over"' USR1
trap 'ask_to_stop "SLURM ends this job"' TERM

# Wait for srun; sets `code`. A signal is heard within a second. A training that is still starting may take the file
# for one of an earlier job, so it is made again until the training is over.
wait_for_training() {
    while kill -0 "$1" 2>/dev/null; do
        [[ -z "$asked" ]] || { mkdir -p "$run_dir" && touch "$run_dir/stop"; } || true
        sleep 1 || true # SIGTERM may come to all processes of this script
    done
    wait "$1" || code=$?
    [[ -z "$asked" ]] || rm -f "$run_dir/stop"
}

finished() { grep -qs '"status": *"finished"' "$run_dir/state.json"; }
job_says() { scontrol show job --oneliner "$job_name" 2>/dev/null | grep -qE "$1"; }

# SLURM brings a job back by itself when it has ended it for another one or lost a node, and one that was cancelled
# is not to come back: in all these cases it counts as running no longer.
requeue() {
    local tries=0
    until job_says 'JobState='; do # the controller may be busy or about to be restarted
        ((++tries < 10)) || die "SLURM does not answer; the same sbatch command goes on from the last checkpoint" 1
        sleep 3
    done
    job_says 'JobState=RUNNING' || return 0
    say "$(date +%T): not finished, so it goes back into the queue and will go on from its last checkpoint"
    scontrol requeue "$job_name" ||
        die "SLURM would not queue it again; the same sbatch command goes on from the last checkpoint" 1
}

# ---- starting -------------------------------------------------------------------------------------------------------

enter_environment
# What the training names as the command to go on with, in place of its own long one.
export KWS_SUBMITTED="sbatch${SLURM_ARRAY_TASK_ID:+ --array=$SLURM_ARRAY_TASK_ID} slurm/train.sh$( (($#)) && printf ' %q' "$@")"
run_dir="$(run_folder "$@")"
if [[ -n "${SLURM_ARRAY_TASK_ID:-}" && " $*" != *" --seed"* ]]; then
    set -- "$@" --seed "$SLURM_ARRAY_TASK_ID"
    run_dir="$run_dir-seed$SLURM_ARRAY_TASK_ID"
fi

gpus="${SLURM_GPUS_ON_NODE:-0}"
per_node="${KWS_PROCS_PER_NODE:-$((gpus > 0 ? gpus : 1))}"
processes=$((nodes * per_node))
if ((gpus == 0)); then
    export ACCELERATE_USE_CPU=true # with --multi_gpu that makes processes on the CPU; --cpu would make one
fi
launch=(--num_machines "$nodes" --num_processes "$processes" --mixed_precision no --dynamo_backend no)
if ((processes > 1)); then
    launch+=(--multi_gpu --main_process_port "${KWS_MAIN_PORT:-$((10000 + SLURM_JOB_ID % 20000))}")
fi
if ((nodes > 1)); then
    first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    address="$(scontrol show node --oneliner "$first" | grep -oP '\bNodeAddr=\K\S+' || true)"
    launch+=(--main_process_ip "${KWS_MAIN_ADDR:-${address:-$first}}" --rdzv_backend c10d)
fi
# For what accelerate has no flags: the launcher hands SIGTERM on, and gives the processes time to save.
export PET_RDZV_ID="$SLURM_JOB_ID-$restart" PET_SHUTDOWN_TIMEOUT=120

say "$(date '+%F %T'): job $job_name, start $((restart + 1)), run $run_dir, $nodes x $per_node processes on" \
    "$( ((gpus)) && echo GPUs || echo CPUs) of ${SLURM_JOB_NODELIST:-this machine}"
rm -f "$run_dir/stop" # it was for the job before

# Expanded on each node: the first one has number 0 and holds what the others meet at. If a node is lost, srun has to
# wait for SLURM to find out, which then queues the job again; ended by the ranks that remain, it would have failed.
# shellcheck disable=SC2016
on_node='exec accelerate launch --machine_rank "$SLURM_NODEID" --rdzv_conf "is_host=$((SLURM_NODEID == 0))" "$@"'
code=0
if [[ -z "$asked" ]]; then
    # --export, --cpus-per-task: srun does not take these over from sbatch in every release and site
    srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --export=ALL --kill-on-bad-exit=0 \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        bash -c "$on_node" bash "${launch[@]}" launch/train.py "$@" --run_dir "$run_dir" &
    wait_for_training $!
fi

# ---- afterwards -----------------------------------------------------------------------------------------------------

# A job that is to make room for another has some time, in which SLURM signals the training but not this script.
job_says 'PreemptTime=[0-9]' && asked=1
if finished; then
    say "$(date +%T): finished, see $run_dir"
elif [[ -n "$asked" ]]; then
    requeue
    exit 0
fi
exit "$code"
