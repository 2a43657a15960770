#!/usr/bin/env bash
# Makes the demo bundle from nothing but public packages: bash demo/train/build.sh WORK
#
# The last steps are VirNuc's own: chunks, workers, `train`, `evaluate`. WORK/virnuc-demo is the
# bundle.
set -euo pipefail
work=${1:?folder to write}
here=$(dirname "$0")

python "$here/fetch.py" --out "$work/sources"
python "$here/data.py" --source "$work/sources" --out "$work/data"
python "$here/train.py" --data "$work/data/training.tsv" --out "$work/networks"
# As many open frames of each label: else the classifier would learn that most are not viral.
snakemake train --profile profiles/local --config samples="$work/data/training.tsv" \
    results="$work/results" bundle="$work/networks" trained_bundle="$work/virnuc-demo" \
    max_per_label=100000
python "$here/describe.py" --data "$work/data/training.tsv" --results "$work/results" \
    --bundle "$work/virnuc-demo"
