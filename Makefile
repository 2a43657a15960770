VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo evaluate peers test soak check clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## install, then run the workflow on the demo data
	snakemake --profile profiles/local --configfile demo/config.yaml
	@echo
	@echo "Open demo/results/report.html; tables are in demo/results/lake and demo/results/gut."
	@echo "The demo models are small and no substitute for the published ones: see README.md for those, and for your own data."

# Each of POS and NEG: one file, or a pattern in quotes.
OUT ?= results/evaluation
evaluate: $(INSTALLED)  ## measure a bundle: BUNDLE=folder POS=viral.fa NEG=non_viral.fa, OUT=folder for results
	@test -n "$(BUNDLE)" -a -n "$(POS)" -a -n "$(NEG)" || \
	    { echo "make evaluate BUNDLE=folder POS=viral.fa NEG=non_viral.fa"; exit 2; }
	mkdir -p "$(OUT)"
	printf 'sample\tpath\tlabel\nvirus\t%s\tvirus\nnon_viral\t%s\tnon_viral\n' '$(POS)' '$(NEG)' > "$(OUT)/samples.tsv"
	snakemake evaluate --profile profiles/local --config samples="$(OUT)/samples.tsv" \
	    results="$(OUT)" bundle="$(BUNDLE)" duplicate_ids=keep
	@echo "Open $(OUT)/evaluation.html; the same as JSON is in $(OUT)/evaluation.json."

# DATA: folder that demo/train/data.py has written. Jaeger has an environment of its own: 3 GB.
DATA ?= build/demo/data
JAEGER := .venv-jaeger/bin/jaeger
peers: $(INSTALLED) $(JAEGER)  ## compare with other tools on held-out sequences, in docs/peers.md: DATA=folder
	python benchmarks/peers.py --sheet "$(DATA)/training.tsv" --bundle demo/bundle \
	    --jaeger $(JAEGER) --max-windows 6000 --train-windows 40000 --max-contigs 400 --page docs/peers.md

$(JAEGER):
	$(PYTHON) -m venv .venv-jaeger
	.venv-jaeger/bin/pip install --quiet 'jaeger-bio[cpu]==1.26.5'

# Only tests/gpu may see a GPU (5: it has no tests where there is none). All others pass wherever they
# are run: to show that, they run as if there were a GPU, which tests/conftest.py hides.
test: $(INSTALLED)  ## install, then run the tests
	pytest tests/gpu || test $$? -eq 5
	PYTHONPATH="$(CURDIR)/tests/as_if_cuda$${PYTHONPATH:+:$$PYTHONPATH}" \
	    pytest --ignore tests/gpu --numprocesses 3 --dist loadfile --no-loadscope-reorder

soak: $(INSTALLED)  ## kill workers at 1,000 random moments; let 10,000 calls on files fail; try all pairs of edits
	VIRNUC_KILLS=1000 pytest -s tests/fault/test_random_kills.py
	VIRNUC_FAULTS=10000 pytest -s tests/fault/test_injected.py
	VIRNUC_PAIRS=all pytest --numprocesses 2 tests/workflow/test_convergence_pairs.py

SCHEMA := check-jsonschema --quiet
# mkdocs with --quiet would not count the warnings that --strict makes errors.
check: $(INSTALLED)  ## lint, format, types, import rule, workflow, schemas, pages
	ruff check .
	ruff format --check .
	mypy virnuc_rules
	lint-imports
	snakefmt --check workflow
	snakemake --lint --configfile demo/config.yaml
	hadolint Dockerfile
	$(SCHEMA) --schemafile config/schema.json config/config.yaml demo/config.yaml .test/config/config.yaml
	$(SCHEMA) --builtin-schema vendor.citation-file-format --default-filetype yaml CITATION.cff
	$(SCHEMA) --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA) --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

clean:  ## remove the results of the demo
	rm -rf demo/results

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,reference]'
	touch $@
