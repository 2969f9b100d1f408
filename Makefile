# What can be done with freeze's source; `make help` says it. Debian or Ubuntu, as root or with sudo.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build criu image demo check test test-settings test-clocks test-real test-orchestrators test-machines bench book pictures lint clean

# Builds outlive the checkout here: they are named after what they are made of.
export FREEZE_CACHE ?= $(or $(XDG_CACHE_HOME),$(or $(HOME),/root)/.cache)/freeze
export CARGO_TARGET_DIR ?= $(FREEZE_CACHE)/target
# The folders that become /opt/freeze in containers: the released build, and the development build of the demo and the tests.
OPT := $(CARGO_TARGET_DIR)/opt
DEVELOPMENT := $(CARGO_TARGET_DIR)/opt-development
# Where crates lie is in their panics: the same program on every machine has another name for it.
REMAP := target."cfg(all(target_os = \"linux\", target_env = \"gnu\"))".rustflags = ["--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo"]

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

ifeq ($(ARCH),arm64)
build:
	@integration/progress --quiet "freeze and criu for arm64" 900 integration/machines/build-arm64 $(OPT)-arm64
	@echo $(OPT)-arm64
else
build: criu ## freeze and criu, static, and what lies beside them, in one folder (printed last); ARCH=arm64: for that architecture, as root
	@integration/setup build
	@integration/progress --quiet "freeze, optimised" 300 cargo build --release --locked --config '$(REMAP)'
	@integration/assemble release $(OPT)
	@echo $(OPT)
endif

criu: ## our static, patched CRIU
	@integration/progress --quiet "criu, from source" 90 criu/build.sh
	@criu/build.sh

IMAGE := $(CARGO_TARGET_DIR)/image
image: build ## freeze's own image, an archive for docker, podman, skopeo and ctr (printed last); ARCH=all: an index of amd64 and arm64, as root
ifeq ($(ARCH),all)
	@integration/progress --quiet "freeze and criu for arm64" 900 integration/machines/build-arm64 $(OPT)-arm64 $(OPT)/freeze $(IMAGE)-arm64
endif
	@images/freeze/build $(OPT) $(IMAGE) freeze:latest $(if $(filter all,$(ARCH)),$(IMAGE)-arm64)
	@echo $(IMAGE)/freeze.tar

demo: ## redis moves between two containers of different base images; STORE=s3 over an S3 server
	@integration/setup demo
	@integration/prepare demo $(DEVELOPMENT)
	@integration/demo/demo $(DEVELOPMENT) $(STORE)

check: ## what needs no root, no network and no container: formatting, clippy, unit tests, stores, layers, the pages
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@tests/host unprivileged
	@tests/docs/check
	@tests/docs/form
	@tests/docs/messages

test: ## everything: lint, unit tests, containers
	@integration/setup test
	@tests/run $(DEVELOPMENT)

test-settings: ## every privilege setting against services of every kind: prints the table of docs/reference/settings.md
	@integration/setup test
	@integration/prepare demo $(DEVELOPMENT)
	@tests/settings/run $(DEVELOPMENT)

test-clocks: ## the container tests on hosts that booted at other times; as long as `make test`
	@integration/setup test
	@integration/prepare test $(DEVELOPMENT)
	@tests/clocks $(DEVELOPMENT)

test-real: ## real services, from Debian's packages: prints the table of docs/reference/services.md; half an hour
	@integration/setup test
	@integration/prepare demo $(DEVELOPMENT)
	@tests/real/run $(DEVELOPMENT)

test-orchestrators: build ## migrations between real engines, brought up for it in a Debian tree of their own; as root
	@integration/setup test
	@images/freeze/test $(OPT)
	@images/test
	@integration/docker/test $(OPT)
	@tests/docs/docker $(OPT)
	@tests/docs/tutorial $(OPT)
	@integration/compose/test $(OPT)
	@integration/swarm/test $(OPT)
	@integration/podman/test $(OPT)
	@integration/containerd/test $(OPT)
	@integration/kubernetes/manifests
	@integration/kubernetes/test
	@integration/migrate/test $(OPT)
	@integration/migrations/test $(OPT)

test-machines: build ## other kernels, Yama, AppArmor and arm64, in virtual machines; as root, slow
	@integration/machines/test amd64:bullseye $(OPT)
	@integration/machines/test amd64:bookworm $(OPT)
	@integration/machines/test amd64:trixie $(OPT)
	@integration/machines/test arm64:trixie "$$($(MAKE) -s build ARCH=arm64 | tail -n 1)"

bench: build ## freeze against plain CRIU; CRIU=FILE names a static stock criu
	@bench/bench.py --suite quick --freeze $(OPT) --criu "$(CRIU)" --opt freeze:setting=restricted

book: ## the pages as a book with search, in HTML; its first page is printed last
	@docs/build-book $(CARGO_TARGET_DIR)/book

pictures: ## the pages' pictures, from their sources beside them; needs graphviz and gnuplot-nox
	@dot -Tsvg docs/pictures/move.dot -o docs/pictures/move.svg
	@gnuplot docs/pictures/downtime.gp >docs/pictures/downtime.svg

lint: ## formatting, clippy, shellcheck, hadolint, licences of crates, and the pages
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings
	@git ls-files -z ':!bench' | xargs -0 awk 'FNR == 1 && /^#!.*sh$$/ { printf "%s%c", FILENAME, 0 } { nextfile }' | xargs -0 shellcheck -x
	@integration/hadolint images/*/Dockerfile
	@integration/cargo-deny
	@tests/docs/check
	@tests/docs/form
	@tests/docs/messages

clean: ## throw-away containers and this checkout's build
	@integration/sandbox/sandbox clean
	@cargo clean
