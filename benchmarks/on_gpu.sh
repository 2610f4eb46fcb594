#!/usr/bin/env bash
# Measure on a GPU what has been measured on a CPU only: one call, bounded in time, results in OUT.
# A part for which no time is left is left out; one that fails does not stop the next.
#
#   benchmarks/on_gpu.sh OUT [PART …]     parts: gpu memory train course predict monai nnunet
#
# Without parts all of them, nnunet where PEERS is given. What may be set in the environment:
#   PYTHON=python3    which has torch
#   WHEELS=           folder of wheels of what this Python lacks; the course needs Jupyter's too
#   PEERS=            Python of `make peers`, which has MONAI and nnU-Net
#   BUDGET_S=300      seconds in all
#   QUICK=            1: tiny numbers, to rehearse
set -euo pipefail

out=$(mkdir -p "$1" && cd "$1" && pwd)
parts=("${@:2}")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
PEERS=${PEERS:-}
BUDGET_S=${BUDGET_S:-300}
if [ "${#parts[@]}" = 0 ]; then
    parts=(gpu memory train course predict monai)
    if [ -n "$PEERS" ]; then parts+=(nnunet); fi
fi

began=$(date +%s)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} LUNGSEG_HOME=$scratch PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$scratch/site" "$WHEELS"/*.whl
    export PYTHONPATH=$PYTHONPATH:$scratch/site
fi

gpu=(--cases 4 --steps 15)
memory=(params/gpu.yaml params/msd.yaml params/msd_80gb.yaml)
train=(--patch 64 --batch-size 8 --channels 32 64 128 256 --workers 0 8 --steps 20)
course=(-p seed 0)
predict=(--growth)
if [ -n "${QUICK:-}" ]; then
    printf '%s\n' 'patch_size: [24, 24, 24]' 'channels: [2, 4]' 'batch_size: 1' > "$scratch/tiny.yaml"
    gpu=(--cases 1 --tier quick --steps 1 --recipe "$scratch/tiny.yaml")
    memory=("$scratch/tiny.yaml")
    train=(--patch 16 --batch-size 1 --channels 2 4 --workers 0 --steps 1)
    course=(-p epochs 1 -p steps_per_epoch 1 -p channels '[4, 8]')
    predict=(--scan "$scratch/data/synthetic_quick/imagesTr/lung_001.nii.gz")
elif [[ " ${parts[*]} " == *" predict "* ]]; then # its scans are made beside the parts before it
    make_scans='from predict import GROWTH, synthetic_scan; [synthetic_scan(n) for n in GROWTH]'
    (cd benchmarks && "$PYTHON" -c "$make_scans") > "$scratch/scans.log" 2>&1 &
    trap 'kill %1 2> /dev/null || true; rm -rf "$scratch"' EXIT
fi

for part in "${parts[@]}"; do
    case $part in
    gpu) command=(benchmarks/gpu.py "${gpu[@]}" --output "$out/gpu") ;;
    memory) command=(benchmarks/memory.py "${memory[@]}" --measure) ;;
    train) command=(benchmarks/train.py "${train[@]}" --peers "$PEERS" --output "$out/train_gpu") ;;
    course) command=(-m lungseg_utils course "${course[@]}" --output "$scratch/course") ;;
    predict) command=(benchmarks/predict.py "${predict[@]}" --only ours) ;;
    monai | nnunet)
        command=(benchmarks/predict.py --only "$part" --peers "${PEERS:-$PYTHON}")
        ;;
    *)
        echo "error: $part: no such part. Use gpu, memory, train, course, predict, monai or nnunet" >&2
        exit 2
        ;;
    esac
    if [ "$part" = predict ]; then wait; fi
    left=$((BUDGET_S - ($(date +%s) - began)))
    echo "== $part, $left s left"
    if [ "$left" -gt 0 ]; then
        timeout "$left" "$PYTHON" "${command[@]}" 2>&1 || echo "$part: failed or out of time: $?"
    fi
done | tee "$out/on_gpu.txt"
