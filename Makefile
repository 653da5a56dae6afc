# What can be made here:
#   make demo    set up, build, make a real image twice, boot it          make test   every test
#   make build   target/release/virt-maker and its agent                  make lint   format, clippy, docs, scripts
#   make bench   the table of README.md, with its peers                   make quick   tests without appliance, boot and root
#   make install [PREFIX=/usr/local] [DESTDIR=]
#   make torture kills, power cuts, full disks, flipped bits, a crowd, hostile input, new kernels: hours

.DEFAULT_GOAL := build
.PHONY: setup build debug demo test quick bench torture lint install clean

CARGO ?= cargo
PREFIX ?= /usr/local
CARGO_TARGET_DIR ?= target
target := $(CARGO_TARGET_DIR)
# Static, so that it also runs where none of the host's libraries are.
agent_flags := -p virt-maker-agent --bin virt-maker-agent
static := -C target-feature=+crt-static

setup:
	@scripts/setup

build:
	$(CARGO) build --locked --release -p virt-maker-cli
	$(CARGO) rustc --locked --release $(agent_flags) -- $(static)

# The tests run what is under $(target)/debug, and find the agent beside it. Both at once: the agent alone has other features of
# its dependencies than the tests, which would be built twice.
debug:
	$(CARGO) build --locked -p virt-maker-cli -p virt-maker-agent

demo: setup build
	@scripts/demo "$(target)/release/virt-maker"

test: setup debug
	@scripts/run-tests

quick: debug
	@scripts/run-tests --quick

bench: build
	@scripts/setup --bench
	$(CARGO) run --locked --release -p bench -- $(BENCH_FLAGS)
	$(if $(BENCH_FLAGS),,$(CARGO) run --locked --release -p bench --bin templates -- "$(target)/release/virt-maker")
	$(if $(BENCH_FLAGS),,$(CARGO) run --locked --release -p bench --bin store -- "$(target)/release/virt-maker")

torture: setup build
	$(CARGO) run --locked --release -p torture -- $(TORTURE_FLAGS)

lint:
	@scripts/lint

install: build
	install -D -m 755 "$(target)/release/virt-maker" "$(DESTDIR)$(PREFIX)/bin/virt-maker"
	install -D -m 755 "$(target)/release/virt-maker-agent" "$(DESTDIR)$(PREFIX)/libexec/virt-maker/virt-maker-agent"
	@scripts/install-extras "$(target)/release/virt-maker" "$(DESTDIR)$(PREFIX)/share"

# The demo's store goes too. The user's own store is elsewhere and stays.
clean:
	$(CARGO) clean
	rm -rf .cache
