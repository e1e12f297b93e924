# Every target runs in the interpreter of the host, which the first one installs: see devtools/hosting/comfyui.py.
# `PYTHON` is expanded only inside recipes, so that `make clean` or `make help` installs nothing.
FINDER ?= python3
PYTHON = $$($(FINDER) -m devtools.hosting.comfyui --python $(DEV))
RUN = @python="$(PYTHON)" && exec "$$python"
# Two workers with a thread each are faster than one with two, and a file's tests stay together, as tests/conftest.py says.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 exec "$$python" -m pytest -rs -n $(WORKERS) --dist loadfile --durations 10

CHECK = "$$python" -m ruff check . && "$$python" -m devtools.type_check

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-all test-families lint format playground picture-book bench-quality bench-picture-book bench-methods bench-speed bench-robustness clean test-newest types

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

demo: ## erase a concept in a real ComfyUI and show the pictures before and after
	$(RUN) -m testbed.demo

serve: ## the same server, left running for the browser until Ctrl-C
	$(RUN) -m testbed.serve

test: DEV = --dev
test: ## ruff, the type check and every test but the slow ones, in the real host
	@python="$(PYTHON)" && $(CHECK) && $(PYTEST) -m "not slow" $(ARGS)

test-all: DEV = --dev
test-all: ## ruff, the type check and every test, with all of the browser's
	@python="$(PYTHON)" && $(CHECK) && $(PYTEST) $(ARGS)

test-families: DEV = --dev
test-families: ## every model family on a small random model
	@python="$(PYTHON)" && $(PYTEST) tests/test_families.py tests/test_families_drawn.py tests/test_predictions.py tests/test_layers.py $(ARGS)

test-newest: ## the tests in the newest release of ComfyUI, downloaded beside the pinned one
	@$(FINDER) -m devtools.newest_host -n $(WORKERS) --dist loadfile $(ARGS)

lint: DEV = --dev
lint: ## ruff only
	@python="$(PYTHON)" && "$$python" -m ruff check . && exec "$$python" -m ruff format --check .

types: DEV = --dev
types: ## the type check only
	$(RUN) -m devtools.type_check $(ARGS)

format: DEV = --dev
format: ## let ruff lay out the code
	@python="$(PYTHON)" && "$$python" -m ruff check --fix . && exec "$$python" -m ruff format .

playground: ## train the playground checkpoint and its judge from nothing
	@python="$(PYTHON)" && "$$python" -m playground.train $(ARGS) && exec "$$python" -m testbed.ready_edit

picture-book: ## train the picture book: hundreds of real things in three drawing styles (hours; needs npm)
	@python="$(PYTHON)" && "$$python" -m playground.picture_book.train $(ARGS) && exec "$$python" -m testbed.ready_edit --world picture_book

bench-quality: ## what AP erases and retains, compared with ESD and other searches
	$(RUN) -m benchmarks.quality $(ARGS)

bench-picture-book: ## every method on the picture book, and AP's searches side by side
	$(RUN) -m benchmarks.picture_book $(ARGS)

bench-methods: DEV = --dev
bench-methods: ## every method on the playground in one table
	$(RUN) -m benchmarks.methods $(ARGS)

bench-speed: ## ap against its published loop, ap_reference: cost and quality side by side
	$(RUN) -m benchmarks.speed $(ARGS)

bench-robustness: ## every attack against several methods and the base model
	$(RUN) -m benchmarks.robustness $(ARGS)

clean: ## remove what builds and tests leave in this folder; the cache with the host stays
	rm -rf .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
