#!/usr/bin/env bash
# Trains on the NVIDIA GPUs of this machine, or of one that ssh reaches.
#
#   launch/gpu.sh [--dry-run] install           make .venv there, with JAX for CUDA
#   launch/gpu.sh [--dry-run] run ARGUMENTS     a grid on every GPU (or JOB=main: one run on all)
#   launch/gpu.sh [--dry-run] fetch             copy the small result files here (with HOST)
#
#   launch/gpu.sh install
#   launch/gpu.sh run --configs=configs/resnet56_coml.py,configs/resnet56_resnet.py \
#       --seeds=0,1,2 --budget_s=3600
#   JOB=main launch/gpu.sh run --config=configs/resnet110_coml.py
#   HOST=me@gpu-box launch/gpu.sh install
#
# Time: install takes 2 to 5 minutes (3 GB of CUDA wheels). A run begins with a few minutes of
# compiling; the head of each file in configs/ says what it takes after that.
#
# With several GPUs `run` starts one grid a GPU on the same folders: each takes the runs that no
# other has taken. The same command goes on where it stopped, so an interruption loses little.
#
# Environment:
#   JOB          grid (default), or main: one run on all GPUs, the batch shared among them
#   GPUS         which GPUs, as in 0,1 (default: all that nvidia-smi lists)
#   HOST         user@machine to work on through ssh and rsync (default: this machine)
#   FOLDER       folder of the code there, with HOST (default: accordion_jax)
#   OUT          result folder of the grid (default: results)
#   JAX_PACKAGE  what pip installs (default: jax[cuda12]; jax[cuda13] for a driver of 580 or newer)
#   PYTHON       makes the virtual environment (default: python3; 3.11 or newer)
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

job="${JOB:-grid}"
out="${OUT:-results}"
host="${HOST:-}"
folder="${FOLDER:-accordion_jax}"
package="${JAX_PACKAGE:-jax[cuda12]}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

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

# Runs a command, or prints it. The last one replaces this shell, so that signals reach it.
last=""
run() {
  if ((dry_run)); then
    show "$@"
  else
    ${last:+exec} "$@"
  fi
}

# Runs a line of shell in the folder of the code, here or on the host.
there() {
  if [[ -n "$host" ]]; then
    run ssh -t "$host" "cd $(printf '%q' "$folder") && $1"
  else
    run bash -c "cd $(printf '%q' "$here") && $1"
  fi
}

quoted() {
  local text=""
  (($#)) && text="$(printf ' %q' "$@")"
  printf '%s' "$text"
}

install() {
  if [[ -n "$host" ]]; then
    run rsync -az --exclude=.git --exclude='.venv*' --exclude=runs --exclude="$out" \
      "$here/" "$host:$folder/"
  fi
  there "${PYTHON:-python3} -m venv .venv"
  there ".venv/bin/python -m pip install --quiet --upgrade pip"
  there ".venv/bin/python -m pip install --quiet . $(printf '%q' "$package")"
  there ".venv/bin/python -c 'import jax; print(jax.__version__, jax.devices())'"
}

train() {
  (($#)) || fail "run needs the arguments of accordion_jax.$job; see: $0 --help"
  local arguments
  arguments="$(quoted "$@")"
  last=1
  if [[ "$job" == main ]]; then
    local chosen="${GPUS:+CUDA_VISIBLE_DEVICES=$GPUS }"
    there "exec env ${chosen}.venv/bin/python -m accordion_jax.main$arguments"
    return
  fi
  # One grid a GPU; SIGTERM and Ctrl-C reach every one, and each saves its run.
  local gpus="${GPUS:-\$(nvidia-smi --query-gpu=index --format=csv,noheader)}"
  there "trap 'told=1; kill -TERM \$(jobs -p) 2>/dev/null' TERM INT
failed=0 pids=''
for gpu in \$(printf '%s\\n' \"$gpus\" | tr ',' ' '); do
  CUDA_VISIBLE_DEVICES=\$gpu .venv/bin/python -m accordion_jax.grid --out=$(printf '%q' "$out")$arguments &
  pids=\"\$pids \$!\"
done
for pid in \$pids; do
  # A signal ends the wait, not the grid, which is saving.
  while told=''; wait \$pid; code=\$?; [ -n \"\$told\" ]; do :; done
  [ \$code = 0 ] || failed=\$code
done
exit \$failed"
}

fetch() {
  [[ -n "$host" ]] || fail "fetch copies from another machine; set HOST (here results are in $out)"
  run mkdir -p "$here/$out"
  run rsync -az "$host:$folder/$out/" "$here/$out/"
}

[[ "$job" == grid || "$job" == main ]] || fail "JOB=$job is not known; use grid or main"
case "$verb" in
  install) install ;;
  run) train "$@" ;;
  fetch) fetch ;;
  "" | -h | --help) usage ;;
  *) fail "$verb is not known; use install, run or fetch" ;;
esac
