# Two commands on a fresh machine: `make demo` and `make test`. Each target works alone on a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Tools that consult Galaxy or write to the home directory are kept from both.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

.PHONY: help
help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

$(VENV)/.ready: requirements.txt tests/install-venv.sh
	@tests/install-venv.sh $(VENV)

.PHONY: venv
venv: $(VENV)/.ready ## Make .venv from the pinned requirements

.PHONY: docker
docker:
	@tests/fleet/ensure-docker.sh

.PHONY: demo
demo: venv docker ## Boot the demo fleet, run site.yml on it, show plans and a real answer
	@$(PYTHON) -m tests.demo

.PHONY: demo-down
demo-down: venv docker ## Remove the demo fleet
	@$(PYTHON) -m tests.fleet down demo
	@echo "demo: hosts, volumes, network and credentials are gone; Docker stays installed"

.PHONY: test
test: venv ## Everything: lint, unit, sanity, Molecule
	@$(PYTHON) -m tests.run

.PHONY: lint unit gateway sanity engine molecule
lint unit gateway sanity engine molecule: venv ## One part of `make test`
	@$(PYTHON) -m tests.run $@

.PHONY: test-long
test-long: venv docker ## What takes long: kills, mirrors, the edge, every attack and a soak, every fault and what tells of it, runbooks, the collection as installed, NVIDIA's packages, fuzzing, slow transfers; PARTS="edge mirror" for some, WRITE=1 keeps the results
	@$(PYTHON) -m pip install -qq --disable-pip-version-check --requirement tests/requirements-fuzz.txt || true
	@$(PYTHON) -m tests.long $(if $(WRITE),--write) $(PARTS)

# The benches import the collection by its name.
bench-memory bench-memory-drawn bench-plan bench-distribution gateway-local bench-gateway bench-llm: export PYTHONPATH := $(CURDIR)/$(VENV)/collections

.PHONY: gateway-local
gateway-local: venv ## The gateway on loopback before UPSTREAM=host:port, on PORT=n, with one user; prints the key and the authority's file
	@$(PYTHON) -m tests.gateway.local "$(UPSTREAM)" "$(PORT)"

.PHONY: bench-gateway
bench-gateway: venv ## What the gateway costs: time to the first token and throughput, beside a direct connection; build/bench/gateway.json
	@$(PYTHON) -m tests.gateway.bench

.PHONY: bench-memory
bench-memory: venv ## Memory estimators against the truth; HEADERS=<dir of *.gguf> TRUTH=<files> for other data, LLAMA_CPP=b10488 for its rows
	@$(PYTHON) -m tests.memory --headers "$(HEADERS)" --truth "$(TRUTH)" --llama-cpp "$(LLAMA_CPP)"

.PHONY: bench-memory-drawn
bench-memory-drawn: venv ## The account against llama.cpp's planner, on COUNT models drawn by chance (SEED)
	@$(PYTHON) -m tests.memory.drawn --count $(or $(COUNT),100) --seed $(or $(SEED),1)

.PHONY: bench-plan
bench-plan: venv ## Seconds that plans for 500 hosts, 60 candidates and 8 context lengths take
	@$(PYTHON) -m tests.memory.plan_speed

.PHONY: bench-distribution
bench-distribution: venv ## One model to 4 nodes, through the role's mirror and straight from an upstream of 200 Mbit/s
	@$(PYTHON) -m tests.distribution

.PHONY: bench-llm
bench-llm: venv docker ## Our benchmark beside guidellm (5.6 GB, in a venv of its own) on the same endpoints; build/bench/llm.json
	@$(PYTHON) -m tests.load

.PHONY: bench-scale
bench-scale: venv docker ## What site.yml's second run, preflight and verify cost the controller, by hosts and strategy; build/bench/scale.json
	@$(PYTHON) -m tests.scale

.PHONY: bench-warm
bench-warm: venv docker ## Seconds to the first token after a restart of the engine, and of the host, with the warmer and without; on the running demo
	@$(PYTHON) -m tests.warm

.PHONY: bench-upgrade
bench-upgrade: venv docker ## Requests that a good upgrade, two bad releases, a rollback, a killed node and other packages cost under load; build/bench/upgrade.json
	@$(PYTHON) -m tests.upgrade $(STEPS)

.PHONY: test-alerts
test-alerts: venv ## Each alert fires when it should, is silent just under, and does not flap: promtool, and how many tests they were
	@$(PYTHON) -m tests.alerts

.PHONY: attack
attack: venv ## Attack a fleet in local containers from its neighbour; ACCESS=.demo/access.json, GROUP=<one of the table's> for a part
	@$(PYTHON) -m tests.attack $(or $(ACCESS),.demo/access.json) $(if $(GROUP),--only "$(GROUP)")

.PHONY: soak
soak: venv ## The gateway at its limit for MINUTES (10), its memory and descriptors watched; ACCESS=.demo/access.json
	@$(PYTHON) -m tests.soak $(or $(ACCESS),.demo/access.json) --minutes $(or $(MINUTES),10)

.PHONY: clients
clients: venv ## The examples of docs/clients.md on a running fleet; ACCESS=.demo/access.json
	@$(PYTHON) -m tests.clients $(or $(ACCESS),.demo/access.json)

.PHONY: screenshots
screenshots: venv ## The status page as pictures, in docs/images, by a real browser
	@$(PYTHON) -m tests.screenshots

.PHONY: docs
docs: venv ## Write what is made: the roles' README files, docs/contracts.md, the tables and answers of docs/{preflight,diagnosis,metrics,gpu,planning,memory}.md
	@$(PYTHON) tools/role_readme.py
	@$(PYTHON) tools/preflight_page.py
	@$(PYTHON) tools/diagnosis_page.py
	@$(PYTHON) tools/contracts.py
	@$(PYTHON) tools/metrics_page.py
	@$(PYTHON) tools/planning_page.py
	@$(PYTHON) tools/gpu_page.py
