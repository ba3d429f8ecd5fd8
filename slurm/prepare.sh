#!/usr/bin/env bash
# Make shards of a huge corpus, many tasks side by side, and put their work together:
#
#     slurm/prepare.sh TASKS [SBATCH OPTIONS] -- SOURCE OPTIONS --out DIR
#     slurm/prepare.sh 16 --time=2:00:00 -- speech-commands --archive speech_commands_v0.02.tar.gz --out data/v2-35
#
# Run it on the login node, in the folder of the repository; do not give it to sbatch, it does so itself: an array of
# TASKS jobs, each of which writes its share of the shards, and behind it one job that checks all of them and writes
# dataset.json. What stands behind `--` is what tools/make_shards.py takes. The dataset is the one that a single process
# would make. If a task fails, or its time runs out, the same command again makes only what is missing.
#
# From the environment: KWS_VENV, folder of the virtual environment; by default .venv, if there is no `accelerate`
# without, which comes with this package.
#
#SBATCH --cpus-per-task=4
#SBATCH --time=4:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

die() { echo "prepare.sh: $*" >&2; exit 2; }

submit() {
    local usage="usage: slurm/prepare.sh TASKS [SBATCH OPTIONS] -- SOURCE OPTIONS --out DIR"
    [[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || die "the number of tasks is missing; $usage"
    local tasks="$1" options=() out="" previous=""
    shift
    while [[ $# -gt 0 && "$1" != -- ]]; do
        options+=("$1")
        shift
    done
    [[ $# -gt 1 ]] || die "nothing to make shards of; $usage"
    shift
    for word in "$@"; do
        case "$previous $word" in
            "--out "*) out="$word" ;;
            *" --out="*) out="${word#--out=}" ;;
        esac
        previous="$word"
    done
    [[ -n "$out" ]] || die "--out is missing; $usage"
    if [[ -f "$out/dataset.json" ]]; then
        echo "$out is finished already; tools/check_shards.py $out proves that it is right"
        return
    fi
    local array merge
    array="$(sbatch --parsable --job-name=kws-shards --array="0-$((tasks - 1))" "${options[@]}" "$0" --in-job "$@")"
    array="${array%%;*}" # the name of the cluster may stand behind it
    # If a task fails there is nothing to put together: then this job is not to wait for ever.
    merge="$(sbatch --parsable --job-name=kws-merge --dependency="afterok:$array" --kill-on-invalid-dep=yes \
        "${options[@]}" "$0" --in-job merge --out "$out")"
    echo "job $array makes the shards in $tasks tasks, job ${merge%%;*} puts them together; logs: slurm-*.out"
}

work() {
    local venv="${KWS_VENV:-.venv}" part=()
    [[ -f tools/make_shards.py ]] || die "there is no tools/make_shards.py in $PWD: submit in the folder of the repository"
    if [[ -n "${KWS_VENV:-}" ]] || ! command -v accelerate >/dev/null; then
        # shellcheck disable=SC1091
        source "$venv/bin/activate"
    fi
    if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
        part=(--task_index "$SLURM_ARRAY_TASK_ID" --task_count "$((SLURM_ARRAY_TASK_MAX + 1))")
    fi
    exec python tools/make_shards.py "$1" --workers "${SLURM_CPUS_PER_TASK:-1}" "${@:2}" ${part[@]+"${part[@]}"}
}

# The same file is what a user runs and, with --in-job, what each job runs.
if [[ "${1:-}" == --in-job ]]; then work "${@:2}"; else submit "$@"; fi
