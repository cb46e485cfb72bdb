# `make help` says what there is. Nothing here needs more than make, bash and Python 3.10 to 3.13 with venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
HOME_DIR ?= .demo
STACK = .venv/bin/python -m airflow_prominence.standalone
ARGS ?=

.PHONY: help demo up stop status venv dev-venv test test-unit test-survival test-deploy test-sites test-browser screenshots lint types arrows bench constraints clean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: venv ## set everything up and run first jobs (ARGS=--exit ends the stack after them)
	@$(STACK) demo --home $(HOME_DIR) $(ARGS)

up: venv ## start the stack in the background
	@$(STACK) up --home $(HOME_DIR)

stop: ## end the stack, with everything that it started
	@if [ -x .venv/bin/python ] && [ -d $(HOME_DIR) ]; then $(STACK) stop --home $(HOME_DIR); else echo "Nothing was running."; fi

status: ## say whether the stack is up
	@if [ -x .venv/bin/python ] && [ -d $(HOME_DIR) ]; then $(STACK) status --home $(HOME_DIR); else echo "The stack is not running."; fi

venv:
	@deploy/venv.sh standalone

dev-venv:
	@deploy/venv.sh standalone,dev

lint: dev-venv ## ruff, mypy and the import arrows
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: dev-venv ## everything that runs on one machine in a quarter of an hour
	@deploy/test.sh all

test-unit: dev-venv ## the quick tests, which need no stack
	@deploy/test.sh unit

test-survival: dev-venv ## kill -9 and SIGSTOP at bad moments: nothing is lost, nothing runs twice
	@deploy/test.sh survival

test-deploy: dev-venv ## docker-compose.yaml and the docker runtime on a real Docker daemon
	@deploy/test.sh deploy

test-sites: dev-venv ## apptainer in a Debian root made on the spot, podman and udocker, S3 and WebDAV through the whole stack
	@deploy/test.sh sites

test-browser: dev-venv ## in headless Chromium: prominence login at a real issuer, a notebook, the Airflow UI
	@deploy/test.sh browser

screenshots: dev-venv ## pictures of the Airflow UI, in docs/screenshots (ARGS=NAME:PATH:VIEW takes more)
	@deploy/test.sh install-browser
	@$(STACK) up --home $(HOME_DIR)
	@.venv/bin/python -m tests.browser.screenshots --home $(HOME_DIR) $(ARGS)

bench: dev-venv ## measure, and print the table of benchmarks/README.md
	@.venv/bin/python -m benchmarks $(ARGS)

constraints: dev-venv ## resolve constraints.txt anew (versions only, Python 3.10 to 3.13)
	@deploy/constraints.sh

clean: stop ## end the stack and remove what make has made here
	rm -rf .venv $(HOME_DIR)
