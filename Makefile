# Every target does its own set-up: a fresh Debian or Ubuntu machine with git, make and Python 3.11 needs nothing else.
BUILDCTL := .venv/bin/buildctl
.DEFAULT_GOAL := help
.PHONY: help venv dev tools images lock render requirements docs test test-all test-root chaos unit check format bench clean

export NO_MKDOCS_2_WARNING := 1 # a notice about another program
export HYPOTHESIS_NO_PLUGINS := 1 # of packages that happen to be here: it would import trio
PYTEST := .venv/bin/python -m pytest -q
PARALLEL := -n auto --dist worksteal
# Docker's tests have one worker, of three on two cores: it mostly waits, and so do those who talk to a registry
INTEGRATION := $(PYTEST) tests/integration -n 3 --dist loadgroup
# without bytecode, each of the thousand processes that the tests start compiles the package again
unexport PYTHONDONTWRITEBYTECODE

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

venv:
	@scripts/setup venv

dev:
	@scripts/setup dev

tools:
	@scripts/setup tools

images: venv ## build every image of the matrix into dist/ (NAMES="cuda-2.6 cpu-2.6" for some)
	@$(BUILDCTL) build $(NAMES)

lock: venv ## resolve again what matrix.yaml asks for (UPGRADE=1: newest versions, UPGRADE=bases: of Debian packages only)
	@$(BUILDCTL) lock $(if $(UPGRADE),--upgrade$(if $(filter bases,$(UPGRADE)),-bases)) $(NAMES)

render: venv ## write images/*/Dockerfile from the templates
	@$(BUILDCTL) render $(NAMES)

test: dev tools ## units, small real images, a real registry and Docker Engine: minutes, 12 GB of disk
	@$(PYTEST) tests/unit $(PARALLEL)
	@$(INTEGRATION) -m "not big"

test-all: dev tools ## the same, and what needs CUDA images or many minutes: 75 minutes, 70 GB
	@$(PYTEST) tests/unit $(PARALLEL) --hypothesis-profile=thorough
	@$(INTEGRATION) -m "not images"
	@$(PYTEST) tests/integration -m images

chaos: dev tools ## kills, errors and rot on small images: CHAOS="--kills 50", ATTACKS="rot crowd" (docs/faults.md)
	@.venv/bin/python -m tests.chaos $(CHAOS) $(ATTACKS)

# what an ordinary user may not do: those tests are skipped in `make test`, and the others need not run twice
test-root: dev tools
	@$(PYTEST) tests/unit/oci tests/unit/runtimes tests/unit/dockerfile $(PARALLEL)
	@$(PYTEST) tests/integration/lock/test_fetch_faults.py tests/integration/build tests/integration/base \
	    tests/integration/testing/test_sandbox_runtime.py -m "not big" -n 2 --dist loadgroup

unit: dev ## the unit tests alone, in seconds
	@$(PYTEST) tests/unit $(PARALLEL)

check: dev ## what CI checks before it builds: linters of every language here, drift of locks and Dockerfiles
	@.venv/bin/ruff check buildctl tests benchmarks hatch_build.py
	@.venv/bin/ruff format --check buildctl tests benchmarks hatch_build.py
	@.venv/bin/mypy
	@.venv/bin/check-jsonschema -q --schemafile buildctl/matrix/schema.json matrix.yaml
	@.venv/bin/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml buildctl/matrix/github.yml
	@.venv/bin/check-jsonschema -q --builtin-schema vendor.github-actions action.yml
	@.venv/bin/check-jsonschema -q --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci buildctl/matrix/gitlab.yml
	@.venv/bin/zizmor -q --offline --persona auditor .github action.yml buildctl/matrix/github.yml
	@.venv/bin/check-jsonschema -q --builtin-schema vendor.compose-spec docs/examples/compose.yaml
	@.venv/bin/pre-commit validate-config .pre-commit-config.yaml
	@.venv/bin/pre-commit validate-manifest .pre-commit-hooks.yaml
	@.venv/bin/shellcheck scripts/setup scripts/pipeline scripts/action scripts/propose scripts/release scripts/runner scripts/no-hosts images/common/* tests/support/engine/*.sh
	@.venv/bin/hadolint images/*/Dockerfile
	@.venv/bin/python -m buildctl.cli.table --check
	@.venv/bin/mkdocs build
	@$(BUILDCTL) lock --check
	@$(BUILDCTL) claims --check
	@$(BUILDCTL) render --check

docs: dev ## write the documentation as a site to build/site; a broken link is an error
	@.venv/bin/mkdocs build

format: dev ## format the code
	@.venv/bin/ruff format buildctl tests benchmarks
	@.venv/bin/ruff check --fix buildctl tests benchmarks

bench: dev ## measure, and write docs/benchmarks.md
	@.venv/bin/python benchmarks/bench.py

clean: ## remove what was built here; the store in ~/.cache/buildctl stays
	rm -rf dist build

COMPILE := .venv/bin/uv pip compile -q --universal --python-version 3.11 pyproject.toml --generate-hashes --no-annotate \
    --custom-compile-command "make requirements"

requirements: dev ## pin the Python environment again (names, versions, hashes; COOLDOWN=7: none younger than a week)
	@$(COMPILE) --extra build --extra dev --upgrade $(if $(COOLDOWN),--exclude-newer "$(COOLDOWN) days") -o requirements-dev.txt
	@$(COMPILE) --extra build --constraints requirements-dev.txt -o requirements.txt
