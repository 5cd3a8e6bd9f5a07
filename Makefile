# The commands of this project; `make` alone lists them. They need Python 3.10 or newer, git and a network, nothing else.
# The first call makes .venv and installs into it, later calls find it there. With uv on the PATH it is used, without it pip.

VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
OUT ?= runs/demo
UV := $(shell command -v uv 2>/dev/null)
INSTALL = $(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install --no-compile) --constraint constraints.txt

# Which Python: the one named (make PYTHON=...), else the first that is new enough, else, with uv, one that uv brings along.
CANDIDATES = $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10 python)
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 10))'
FOUND = $(shell for p in $(CANDIDATES); do $$p $(NEW_ENOUGH) 2>/dev/null && command -v $$p && break; done)
CHOSEN = $(or $(FOUND),$(if $(PYTHON),,$(if $(UV),3.12)))
TOO_OLD = msspose needs Python 3.10 or newer, found: $(shell $(firstword $(CANDIDATES)) --version 2>&1 | head -n 1). Name another: make PYTHON=python3.12

# An environment that works is kept; one whose interpreter is gone or too old, or that was left half made, is made again.
USABLE = $(shell $(BIN)/python $(NEW_ENOUGH) 2>/dev/null && { test -n "$(UV)" || $(BIN)/python -m pip --version >/dev/null 2>&1; } && echo yes)
GONE := $(shell $(BIN)/python $(NEW_ENOUGH) 2>/dev/null || echo gone)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lab docs prepare outputs components ablation laptop mutations constraints hooks clean gone quarto
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: $(VENV)/.run  ## train on generated people for three minutes: report, figures, animation and model in runs/demo (or OUT=folder)
	@echo "Training a pose network on generated people; results go to $(OUT)"
	@$(BIN)/msspose demo --out "$(OUT)"

test: $(VENV)/.dev  ## check everything, in about a quarter of an hour on two cores (or some of it: STEPS="lint tests")
	@echo "Checking notebooks, modules, documents, tests and the wheel"
	@$(BIN)/python tools/check.py $(STEPS)

lab: $(VENV)/.lab  ## open the chapters in JupyterLab
	@echo "Opening the chapters in JupyterLab; Ctrl-C twice ends it"
	@$(BIN)/jupyter lab nbs/index.ipynb

docs: quarto $(VENV)/.dev  ## build the site into _docs; needs Quarto
	@echo "Building the site into _docs"
	@rm -rf _proc && $(BIN)/nbdev_proc_nbs
	@cd _proc && quarto render --no-cache
	@rm -rf _docs && mv _proc/_docs _docs

prepare: $(VENV)/.dev  ## before a commit: export the modules, clean the notebooks, write README.md
	@echo "Exporting modules, cleaning notebooks, writing README.md"
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean
	@$(BIN)/python tools/make_readme.py

outputs: $(VENV)/.dev  ## run every chapter and store what it shows
	@echo "Running every chapter and storing its outputs"
	@OMP_NUM_THREADS=1 $(BIN)/python tools/run_notebooks.py
	@$(BIN)/nbdev_clean

components: $(VENV)/.run  ## train each component of the paper alone, three seeds: the table of chapter 07, in about an hour
	@echo "Training each component; models go to runs/components, the table to nbs/results/components.json"
	@OMP_NUM_THREADS=1 $(BIN)/python tools/compare_components.py

ablation: $(VENV)/.run  ## train the paper's ladder and the sweep of its structure term, three seeds each: chapter 13, in under two hours
	@echo "Training 42 networks; runs go to runs/ladder and runs/structure, what they found to nbs/results"
	@OMP_NUM_THREADS=1 $(BIN)/msspose ablate ladder --out runs/ladder
	@OMP_NUM_THREADS=1 $(BIN)/msspose ablate structure --pictures 49152 --on crowd --on standard --out runs/structure
	@for study in ladder structure; do cp runs/$$study/ablation.json nbs/results/$$study.json; done

laptop: $(VENV)/.run  ## train the preset laptop for an hour, and measure it on each set of people
	@echo "Training for an hour; the model goes to runs/laptop, the numbers to nbs/results/laptop.json"
	@OMP_NUM_THREADS=1 $(BIN)/msspose train --preset laptop --out runs/laptop
	@$(BIN)/python tools/record_run.py runs/laptop --out nbs/results/laptop.json

mutations: $(VENV)/.dev  ## break two lines of each module, chosen at random, and see whether a test fails: in about an hour
	@echo "Breaking lines; the table goes to build/mutations.md"
	@mkdir -p build && $(BIN)/python tools/mutate.py > build/mutations.md && tail -n 1 build/mutations.md

constraints:  ## resolve constraints.txt again; needs uv (UPGRADE=1 takes the newest versions)
	@echo "Resolving constraints.txt for Python 3.10 to 3.13 on Linux, macOS and Windows"
	@$(or $(FOUND),$(error $(TOO_OLD))) tools/make_constraints.py $(if $(UPGRADE),--upgrade)

hooks: $(VENV)/.dev  ## let git merge notebooks cell by cell in this clone
	@echo "Telling git how to merge notebooks"
	@git config merge.nbdev-merge.name "notebooks, cell by cell"
	@git config merge.nbdev-merge.driver "$(BIN)/nbdev_merge %O %A %B %P"

clean:  ## remove what was built (.venv and runs stay)
	@echo "Removing what was built"
	@rm -rf _docs _proc build dist msspose.egg-info .pytest_cache .ruff_cache .hypothesis

# A stamp is written after its installation has succeeded, never before. The larger sets contain the smaller ones.
$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing msspose into $(VENV) (minutes, the first time: PyTorch is large)"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing msspose and the tools of its development into $(VENV) (minutes, the first time: PyTorch is large)"
	@$(INSTALL) --editable ".[dev]"
	@touch $(VENV)/.run $@

$(VENV)/.lab: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing msspose and JupyterLab into $(VENV) (minutes, the first time: PyTorch is large)"
	@$(INSTALL) --editable ".[dev,course]"
	@touch $(VENV)/.run $(VENV)/.dev $@

define NEW_ENVIRONMENT
$(if $(CHOSEN),,$(error $(TOO_OLD)))
@test -n "$(UV)" || $(CHOSEN) -c 'import ensurepip, venv' 2>/dev/null || { echo "This Python makes no environments; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
@echo "Making an environment in $(VENV)"
@rm -rf $(VENV)
@$(if $(UV),$(UV) venv --quiet --seed --python $(CHOSEN) $(VENV),$(CHOSEN) -m venv $(VENV))
endef

$(VENV)/.made: $(GONE)
	$(if $(USABLE),,$(NEW_ENVIRONMENT))
	@touch $@

gone:

quarto:
	@:$(if $(shell command -v quarto 2>/dev/null),,$(error make docs needs Quarto: install it from https://quarto.org and try again))
