#!/usr/bin/env bash
# Snakemake runs this in an environment that it makes with `--sdm conda`: adds the library itself.
set -euo pipefail
pip install --no-deps "$PWD"
