#!/usr/bin/env bash
# Makes the demo bundle from its three files of sequences: bash demo/train/build.sh SOURCES WORK
#
# The last steps are VirNuc's own: chunks, workers, `train`, `evaluate`. WORK/virnuc-demo is the
# bundle.
set -euo pipefail
sources=${1:?folder of the sequences} work=${2:?folder to write}
here=$(dirname "$0")

python "$here/data.py" --source "$sources" --out "$work/data"
python "$here/train.py" --data "$work/data/training.tsv" --out "$work/networks"
snakemake train --profile profiles/local --config samples="$work/data/training.tsv" \
    results="$work/results" bundle="$work/networks" trained_bundle="$work/virnuc-demo"
python "$here/describe.py" --data "$work/data/training.tsv" --results "$work/results" \
    --bundle "$work/virnuc-demo"
