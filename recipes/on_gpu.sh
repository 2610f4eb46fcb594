#!/usr/bin/env bash
# Make synthetic chests on every core, train on them, and leave weights and history in OUT: one call,
# bounded in time, for a machine with a GPU, few minutes and no network.
#
#   recipes/on_gpu.sh OUT
#
# What may be set in the environment, with its default:
#   PYTHON=python3       which has torch
#   WHEELS=              folder of wheels of what this Python lacks
#   BUDGET_S=450         seconds in all
#   PHANTOMS_S=          after so many no further set is begun (a quarter of BUDGET_S)
#   CORES=               processes that make chests (all cores)
#   CASES=8              chests in a set; the first, which validates too, has five times as many
#   TUMOUR_FREE=0        every so many sets one holds chests without a tumour
#   TIER=medium          their level of detail
#   FIRST_SEED=100       of the first set; the next ones go on from there
#   PARAMS=params/gpu.yaml
#   WEIGHTS=recipes/parent.safetensors   to start from; empty: random ones
#   SCRATCH=             folder for sets, cache and run, which stays (one that is removed at the end)
set -euo pipefail

out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
BUDGET_S=${BUDGET_S:-450}
PHANTOMS_S=${PHANTOMS_S:-$((BUDGET_S / 4))}
CORES=${CORES:-$(nproc)}
CASES=${CASES:-8}
TUMOUR_FREE=${TUMOUR_FREE:-0}
TIER=${TIER:-medium}
FIRST_SEED=${FIRST_SEED:-100}
PARAMS=${PARAMS:-params/gpu.yaml}
WEIGHTS=${WEIGHTS-recipes/parent.safetensors}

began=$(date +%s)
if [ -z "${SCRATCH:-}" ]; then
    SCRATCH=$(mktemp -d)
    trap 'rm -rf "$SCRATCH"' EXIT
fi
mkdir -p "$SCRATCH"
export LUNGSEG_HOME=$SCRATCH PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$SCRATCH/site" "$WHEELS"/*.whl
    export PYTHONPATH=$PYTHONPATH:$SCRATCH/site
fi

make_sets() { # NUMBER: that of this process, from 0; each makes one set at least
    local number=$1 size=$CASES tumours
    if [ "$number" = 0 ]; then size=$((5 * CASES)); fi
    until [ "$number" -ge "$CORES" ] && [ $(($(date +%s) - began)) -ge "$PHANTOMS_S" ]; do
        tumours=()
        if [ "$TUMOUR_FREE" -gt 0 ] && [ $(((number + 1) % TUMOUR_FREE)) = 0 ]; then
            tumours=(--tumours 0)
        fi
        OMP_NUM_THREADS=1 "$PYTHON" -m lungseg_utils phantom \
            "$SCRATCH/sets/part_$((10000 + number))" --seed $((FIRST_SEED + number)) \
            --cases "$size" --test-cases 0 --tier "$TIER" ${tumours[@]+"${tumours[@]}"}
        size=$CASES
        number=$((number + CORES))
    done
}

workers=()
for ((number = 0; number < CORES; number++)); do
    make_sets "$number" > "$SCRATCH/phantom_$number.log" 2>&1 &
    workers+=($!)
done
for worker in "${workers[@]}"; do
    wait "$worker" || { cat "$SCRATCH"/phantom_*.log >&2; exit 1; }
done
sets=("$SCRATCH"/sets/part_*)
echo "${#sets[@]} sets after $(($(date +%s) - began)) s"

options=(--run-dir "$SCRATCH/run" -f "$PARAMS")
if [ -n "$WEIGHTS" ]; then
    options+=(--weights "$WEIGHTS")
else # there are no errors of theirs to look at, and no batch norms to freeze
    options+=(-p hard_example_share 0 -p frozen_norm_share 0.3)
fi
left=$((BUDGET_S - ($(date +%s) - began)))
if [ "$left" -lt 20 ]; then
    echo "error: no time is left to train. Raise BUDGET_S, or lower PHANTOMS_S or CASES" >&2
    exit 1
fi
# What is stopped writes its weights all the same, and has some seconds for it.
timeout --preserve-status --kill-after 30 "$left" \
    "$PYTHON" recipes/train_for.py "$((left - 15))" "${sets[@]}" "${options[@]}"
for name in best.safetensors last.safetensors history.csv config.json environment.json; do
    cp "$SCRATCH/run/$name" "$out"
done
ls -l "$out"
