# make demo    install, then run the workflow on the demo data
# make evaluate BUNDLE=folder POS=viral.fa NEG=non_viral.fa    measure a bundle; OUT=folder for results
# make test    install, then run the tests
# make soak    kill workers at 1,000 random moments; let 10,000 calls on files fail; try all pairs of edits of a finished run
# make check   lint, format, types, import rule, workflow
# make clean   remove the results of the demo

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: demo evaluate test soak check clean

demo: $(INSTALLED)
	snakemake --profile profiles/local --configfile demo/config.yaml
	@echo
	@echo "Open demo/results/report.html; tables are in demo/results/lake and demo/results/gut."
	@echo "The demo models are small and no substitute for the published ones: see README.md for those, and for your own data."

# Each of POS and NEG: one file, or a pattern in quotes.
OUT ?= results/evaluation
evaluate: $(INSTALLED)
	@test -n "$(BUNDLE)" -a -n "$(POS)" -a -n "$(NEG)" || \
	    { echo "make evaluate BUNDLE=folder POS=viral.fa NEG=non_viral.fa"; exit 2; }
	mkdir -p "$(OUT)"
	printf 'sample\tpath\tlabel\nvirus\t%s\tvirus\nnon_viral\t%s\tnon_viral\n' '$(POS)' '$(NEG)' > "$(OUT)/samples.tsv"
	snakemake evaluate --profile profiles/local --config samples="$(OUT)/samples.tsv" \
	    results="$(OUT)" bundle="$(BUNDLE)" duplicate_ids=keep
	@echo "Open $(OUT)/evaluation.html; the same as JSON is in $(OUT)/evaluation.json."

# Only tests/gpu may see a GPU (5: it has no tests where there is none). All others pass wherever they
# are run: to show that, they run as if there were a GPU, which tests/conftest.py hides.
test: $(INSTALLED)
	pytest tests/gpu || test $$? -eq 5
	PYTHONPATH="$(CURDIR)/tests/as_if_cuda$${PYTHONPATH:+:$$PYTHONPATH}" \
	    pytest --ignore tests/gpu --numprocesses 3 --dist loadfile --no-loadscope-reorder

soak: $(INSTALLED)
	VIRNUC_KILLS=1000 pytest -s tests/fault/test_random_kills.py
	VIRNUC_FAULTS=10000 pytest -s tests/fault/test_injected.py
	VIRNUC_PAIRS=all pytest --numprocesses 2 tests/workflow/test_convergence_pairs.py

check: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy virnuc_rules
	lint-imports
	snakefmt --check workflow
	snakemake --lint --configfile demo/config.yaml
	hadolint Dockerfile

clean:
	rm -rf demo/results

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
