# Every target does its own set-up: a fresh Debian or Ubuntu machine with git, make and Python 3.11 needs nothing else.
BUILDCTL := .venv/bin/buildctl
.DEFAULT_GOAL := help
.PHONY: help venv tools images lock render requirements test unit check format bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

venv:
	@scripts/setup venv

tools:
	@scripts/setup tools

images: venv ## build every image of the matrix into dist/ (NAMES="cuda-2.6 cpu-2.6" for some)
	@$(BUILDCTL) build $(NAMES)

lock: venv ## resolve again what matrix.yaml asks for (UPGRADE=1: newest versions, UPGRADE=bases: of Debian packages only)
	@$(BUILDCTL) lock $(if $(UPGRADE),--upgrade$(if $(filter bases,$(UPGRADE)),-bases)) $(NAMES)

render: venv ## write images/*/Dockerfile from the templates
	@$(BUILDCTL) render $(NAMES)

test: venv tools ## all tests: units, then real images of both architectures and a real Docker Engine
	@.venv/bin/python -m pytest tests/unit -q -n auto
	@.venv/bin/python -m pytest tests/integration -q -m "not images" -n 2 --dist loadfile
	@.venv/bin/python -m pytest tests/integration -q -m images

unit: venv ## the unit tests alone, in seconds
	@.venv/bin/python -m pytest tests/unit -q -n auto

check: venv ## what CI checks before it builds: linters of every language here, drift of locks and Dockerfiles
	@.venv/bin/ruff check buildctl tests benchmarks
	@.venv/bin/ruff format --check buildctl tests benchmarks
	@.venv/bin/mypy
	@.venv/bin/check-jsonschema -q --schemafile buildctl/matrix.schema.json matrix.yaml
	@.venv/bin/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.venv/bin/zizmor -q --offline .github/workflows
	@.venv/bin/check-jsonschema -q --builtin-schema vendor.compose-spec docs/examples/compose.yaml
	@.venv/bin/shellcheck scripts/setup scripts/pipeline scripts/propose scripts/no-hosts images/common/* tests/support/engine/*.sh
	@.venv/bin/hadolint images/*/Dockerfile
	@$(BUILDCTL) lock --check
	@$(BUILDCTL) claims --check
	@$(BUILDCTL) render --check

format: venv ## format the code
	@.venv/bin/ruff format buildctl tests benchmarks
	@.venv/bin/ruff check --fix buildctl tests benchmarks

bench: venv ## measure, and write docs/benchmarks.md
	@.venv/bin/python benchmarks/bench.py

clean: ## remove what was built here; the store in ~/.cache/buildctl stays
	rm -rf dist build

requirements: venv ## pin the development environment again (names, versions and hashes; no host)
	@.venv/bin/uv pip compile -q --universal --python-version 3.11 --extra dev pyproject.toml --generate-hashes --no-annotate \
	    --custom-compile-command "make requirements" --upgrade -o requirements-dev.txt
