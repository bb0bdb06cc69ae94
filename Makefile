# The two commands of the README are `make demo` and `make test`; `make` alone lists the rest.
# They make .venv and install into it; the stamps in it see to it that a second run installs nothing,
# until settings.ini, setup.py or pyproject.toml change. `make PYTHON=... VENV=...` chooses another Python or folder.

ok      = import sys; sys.exit(sys.version_info < (3, 10))
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
            command -v $$p >/dev/null 2>&1 && $$p -c '$(ok)' 2>/dev/null && echo $$p && break; done)
VENV   ?= .venv
BIN     = $(CURDIR)/$(VENV)/bin
PACKAGE = settings.ini setup.py pyproject.toml
# Two notebooks or test files at a time, each with half of the cores: more get in each other's way
WORKERS ?= 2
THREADS := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); t=$$((n / $(WORKERS))); echo $$((t > 0 ? t : 1)))
# Where tests and notebooks look for commands, and what must not leak into them
RUN     = PATH="$(BIN):$$PATH" PYTHONDONTWRITEBYTECODE=1
# A temporary folder for all that follows, removed at the end: what a killed process left in it, too
IN_TEMP = t=$$(mktemp -d) && trap 'rm -rf "$$t"' EXIT && TMPDIR="$$t"

.PHONY: help demo test check notebooks pytest readme docs lab wheel clean distclean

help:
	@echo 'make demo    install into .venv, train a ResNet on real images, show how it did'
	@echo 'make test    install for development, run every check and test'
	@echo 'make lab     open the lessons in JupyterLab'
	@echo 'make docs    build the site into _docs'
	@echo 'make readme  write README.md from nbs/index.ipynb'
	@echo 'make wheel   build the wheel and the source archive into dist'
	@echo 'make clean   remove what these built (make distclean: .venv too)'

demo: $(VENV)/.installed-plain
	@$(RUN) resnet-course train

test: check notebooks pytest

check: $(VENV)/.installed-dev
	@$(RUN) python tools/check_tree.py
	@$(RUN) python tools/readme.py --check
	@$(RUN) python tools/tidy_nbs.py --check
	@$(RUN) python tools/house.py --check
	@$(RUN) ruff check resnet_course nbs tests tools benchmarks setup.py
	@$(RUN) ruff check --line-length 79 nbs/lessons nbs/solutions

notebooks: $(VENV)/.installed-dev
	@echo 'Notebooks, each from a fresh kernel:'
	@$(IN_TEMP) $(RUN) OMP_NUM_THREADS=$(THREADS) nbdev_test --n_workers $(WORKERS) --timing

pytest: $(VENV)/.installed-dev
	@$(IN_TEMP) $(RUN) OMP_NUM_THREADS=$(THREADS) python -m pytest -n $(WORKERS) --dist loadfile

readme: $(VENV)/.installed-dev
	@$(RUN) python tools/readme.py

docs: $(VENV)/.installed-dev
	@$(RUN) python tools/build_site.py

lab: $(VENV)/.installed-lessons
	@$(RUN) jupyter lab nbs/lessons

wheel: $(VENV)/.installed-dev
	@rm -rf build dist
	@$(RUN) python -m build

clean:
	rm -rf build dist _docs _proc *.egg-info .pytest_cache .hypothesis
	find nbs resnet_course tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "resnet_course needs Python 3.10 or newer; on PATH there is \
	$$(python3 --version 2>&1 || true). Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: \
	on Debian and Ubuntu, install python3-venv" >&2; exit 1; }

$(VENV)/.installed-plain: $(PACKAGE) | $(VENV)/bin/python
	@echo 'Installing into $(VENV), once: a few minutes, and 6 GB with the CUDA libraries'
	@$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/.installed-lessons: $(PACKAGE) | $(VENV)/bin/python
	@$(BIN)/python -m pip install -e '.[lessons]'
	@touch $(VENV)/.installed-plain $@

$(VENV)/.installed-dev: $(PACKAGE) | $(VENV)/bin/python
	@echo 'Installing into $(VENV), once: a few minutes, and 7 GB with the CUDA libraries'
	@$(BIN)/python -m pip install -e '.[dev]'
	@touch $(VENV)/.installed-plain $(VENV)/.installed-lessons $@
