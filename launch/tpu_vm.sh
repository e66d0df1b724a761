#!/usr/bin/env bash
# Trains on a Cloud TPU VM, from one host to a pod slice, and fetches the results.
#
#   launch/tpu_vm.sh [--dry-run] create           ask for the TPU
#   launch/tpu_vm.sh [--dry-run] install          copy the code to every host, and install it
#   launch/tpu_vm.sh [--dry-run] run ARGUMENTS    start in the background, on every host
#   launch/tpu_vm.sh [--dry-run] logs             follow the first host's log
#   launch/tpu_vm.sh [--dry-run] stop             save and stop, to go on later with `run`
#   launch/tpu_vm.sh [--dry-run] fetch            copy the small result files here
#   launch/tpu_vm.sh [--dry-run] delete           give the TPU back: it costs until then
#   launch/tpu_vm.sh [--dry-run] all ARGUMENTS    create, install, run and logs
#
#   export TPU_NAME=accordion ZONE=us-central1-a TPU_TYPE=v5litepod-8
#   launch/tpu_vm.sh all --config=configs/resnet110_coml.py --config.train.batch_size=128
#   launch/tpu_vm.sh fetch && launch/tpu_vm.sh delete
#
# Time: create takes 2 to 5 minutes where there is capacity, install 2. A run begins with some
# minutes of compiling; the head of each file in configs/ says what it takes after that. The TPU is
# billed from create to delete, busy or idle.
#
# A slice of several hosts (v5litepod-16 and up, v4-16 and up) runs one process a host that share
# each batch, and needs a folder that all of them see, for checkpoints: set BUCKET. The batch size
# must be divisible by the number of chips. JOB=grid is for one host.
#
# Environment:
#   TPU_NAME     name of the TPU VM (default: accordion)
#   ZONE         where (required)
#   TPU_TYPE     accelerator type (default: v5litepod-8)
#   TPU_VERSION  runtime (default: v2-alpha-tpuv5-lite, which goes with v5litepod)
#   PROJECT      of Google Cloud (default: gcloud's own)
#   SPOT         1 asks for a cheaper TPU that can be taken back; `run` goes on afterwards
#   BUCKET       Cloud Storage bucket, with hierarchical namespace, to mount for the runs
#   JOB          main (default): one run on all chips; or grid: many runs, on one host
#   OUT          where fetch puts the results (default: results)
set -euo pipefail

quote="'\\''" # a single quote inside single quotes

usage() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

dry_run=0
if [[ "${1:-}" == --dry-run ]]; then
  dry_run=1
  shift
fi
verb="${1:-}"
[[ $# -gt 0 ]] && shift

name="${TPU_NAME:-accordion}"
job="${JOB:-main}"
out="${OUT:-results}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# On the hosts: code, and beside it the runs, which a mounted bucket may hold.
code="accordion_jax"
runs="accordion_runs"

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# Prints a command so that it can be read, and pasted.
show() {
  local argument
  for argument in "$@"; do
    if [[ "$argument" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      printf '%s ' "$argument"
    else
      printf "'%s' " "${argument//\'/$quote}"
    fi
  done
  printf '\n'
}

# Runs a command, or prints it.
run() {
  if ((dry_run)); then
    show "$@"
  else
    "$@"
  fi
}

# gcloud compute tpus tpu-vm VERB NAME …, in the zone and project.
tpu() {
  local action="$1"
  shift
  run gcloud compute tpus tpu-vm "$action" "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

# Runs a line of shell on one host, or on all.
on() {
  tpu ssh "$name" --worker="$1" --command="$2"
}

create() {
  local options=()
  [[ "${SPOT:-0}" == 1 ]] && options+=(--spot)
  tpu create "$name" --accelerator-type="${TPU_TYPE:-v5litepod-8}" \
    --version="${TPU_VERSION:-v2-alpha-tpuv5-lite}" ${options[@]+"${options[@]}"}
}

install() {
  local archive
  if ((dry_run)); then
    archive="/tmp/accordion_jax.tar.gz"
  else
    archive="$(mktemp --suffix=.tar.gz)"
  fi
  # What is committed: a run can then be traced to a commit.
  run git -C "$here" archive --format=tar.gz --output="$archive" HEAD
  tpu scp "$archive" "$name:accordion_jax.tar.gz" --worker=all
  run rm -f "$archive"
  on all "mkdir -p $code $runs && tar -xzf accordion_jax.tar.gz -C $code"
  on all "python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
(sudo apt-get -qq update && sudo apt-get -qq install -y python3.11 python3.11-venv)"
  on all "cd $code && \$(command -v python3.11 || echo python3) -m venv .venv && \
.venv/bin/pip install -q . 'jax[tpu]'"
  if [[ -n "${BUCKET:-}" ]]; then
    # A hierarchical namespace renames a folder at once, which checkpoints rely on.
    on all "command -v gcsfuse > /dev/null || { echo 'error: BUCKET needs gcsfuse on the hosts; see \
https://cloud.google.com/storage/docs/cloud-storage-fuse/install' >&2; exit 1; }"
    on all "mountpoint -q $runs || gcsfuse --implicit-dirs $(printf '%q' "$BUCKET") $runs"
  fi
}

train() {
  (($#)) || fail "run needs the arguments of accordion_jax.$job; see: $0 --help"
  local flags=()
  if [[ "$job" == main ]]; then
    flags=(--distributed)
    [[ " $* " == *" --workdir="* ]] || flags+=("--workdir=../$runs/main")
  else
    flags=("--runs=../$runs" "--out=../$runs/results")
  fi
  local arguments
  arguments="$(printf ' %q' "${flags[@]}" "$@")"
  on all "cd $code && (setsid nohup .venv/bin/python -u -m accordion_jax.$job$arguments \
> ../run.log 2>&1 < /dev/null & echo \$! > ../run.pid)"
}

logs() {
  # The log of the first process; it ends when the process does.
  on 0 "tail -n +1 -F --pid=\$(cat run.pid) run.log"
}

stop() {
  on all "kill -TERM \$(cat run.pid) && tail -n 1 -f --pid=\$(cat run.pid) run.log"
}

fetch() {
  run mkdir -p "$here/$out"
  on 0 "cd $runs && find . \\( -name 'lookup_table.*' -o -name metrics.jsonl -o -name config.json \
-o -name sessions.json -o -name grid.json \\) -print0 | tar -czf ../results.tar.gz --null -T -"
  tpu scp "$name:results.tar.gz" "$here/$out/results.tar.gz" --worker=0
  run tar -xzf "$here/$out/results.tar.gz" -C "$here/$out"
  run rm -f "$here/$out/results.tar.gz"
}

[[ "$job" == grid || "$job" == main ]] || fail "JOB=$job is not known; use main or grid"
case "$verb" in
  "" | -h | --help)
    usage
    exit 0
    ;;
  create | install | run | logs | stop | fetch | delete | all) ;;
  *) fail "$verb is not known; use create, install, run, logs, stop, fetch, delete or all" ;;
esac
[[ -n "${ZONE:-}" ]] || fail "ZONE is not set; for instance: export ZONE=us-central1-a"
case "$verb" in
  run) train "$@" ;;
  delete) tpu delete "$name" --quiet ;;
  all)
    (($#)) || fail "all needs the arguments of accordion_jax.$job; see: $0 --help"
    create
    install
    train "$@"
    logs
    ;;
  *) "$verb" ;;
esac
