# libpar. `make demo` runs the main job offline, `make test` passes all tests; each sets up what it needs.
#
#   make demo     build, and run examples/c/stream_tools.c: a streaming agent that calls the host's own function
#   make test     Rust, C and Python tests, in less than 15 minutes on two cores
#   make soak     what takes longer: 500 kills, thread schedules, all C tests under AddressSanitizer and valgrind, stress, fuzz
#   make mutants  what no test would notice, if a line of the library were another
#   make header   regenerate include/par_ffi.h, include/par.abi.json and the generated layers of the bindings
#   make lint     formatting, clippy, and that generated files are up to date
#   make bench    the benchmarks of benches/README.md, as one table
#   make install  library, header and par.pc below PREFIX (default /usr/local) and DESTDIR
#
# `make test` and `make soak` have parts (`make test-rust`, `make soak-valgrind`, ...). A part that fails keeps no other from
# running; the last line names those that failed. What is not installed is skipped visibly, or, with PAR_TEST_REQUIRE_ALL=1, is a
# failure.

PREFIX  ?= /usr/local
CARGO   ?= cargo
PYTHON  ?= python3
CC      ?= cc

VERSION  := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOVERSION := $(shell echo $(VERSION) | sed 's/^0\.\([0-9]*\)\..*/0.\1/; t; s/^\([0-9]*\)\..*/\1/')
DEMO     := target/demo
DEV      := target/debug/deps
FAST     := target/fast
VENV     := build/venv
SOURCES  := $(shell find src -name '*.rs') Cargo.toml Cargo.lock build.rs cbindgen.toml
# What the soak may take: kills of each torture, turns on one session, and seconds of each stress.
KILLS    ?= 500
TURNS    ?= 2000
STRESS   ?= 120
FUZZ     ?= 5000

.PHONY: demo test test-rust test-c test-header test-python soak soak-torture soak-model soak-stress soak-asan soak-valgrind soak-fuzz \
	mutants live header lint bench install clean
.DELETE_ON_ERROR:

# Runs parts although one fails, and says which did. $(1): the name of the whole, $(2): its parts.
run_parts = @failed=; for part in $(2); do \
		began=$$(date +%s); printf '\n==== %s\n' "$$part"; \
		$(MAKE) --no-print-directory $$part || failed="$$failed $$part"; \
		printf '==== %s: %s s\n' "$$part" $$(($$(date +%s) - began)); \
	done; \
	if [ -n "$$failed" ]; then echo "make $(1): FAILED:$$failed"; exit 1; fi; echo "make $(1): all passed"

# ---- the library

# With all features and the checks of a debug build: what the tests run on. The same build as that of the Rust tests, which
# `cargo build` is not: their tokio has other features.
$(DEV)/libpar.so: $(SOURCES)
	$(CARGO) test --locked --no-run
	@touch $@

# Optimized, without the long link of a release: what the soak runs on.
$(FAST)/libpar.so: $(SOURCES)
	$(CARGO) build --locked --profile fast --lib
	@touch $@

# Compiled as soon as can be: without the features that the demo does not use.
$(DEMO)/libpar.so: $(SOURCES)
	$(CARGO) rustc --locked --profile demo --no-default-features --lib --crate-type cdylib
	@touch $@

EXAMPLE = @mkdir -p $(@D); set -x; \
	$(CC) -std=gnu99 -O1 -Wall -Wextra -Wpedantic -Werror -Iinclude $< -o $@ -L$(1) -lpar -Wl,-rpath,$(abspath $(1))

$(DEMO)/examples/%: examples/c/%.c $(DEMO)/libpar.so include/par_ffi.h
	$(call EXAMPLE,$(DEMO))

build/examples/%: examples/c/%.c $(DEV)/libpar.so include/par_ffi.h
	$(call EXAMPLE,$(DEV))

demo: $(DEMO)/examples/stream_tools
	@echo
	@$<

# ---- tests

test:
	$(call run_parts,test,test-rust test-c test-header test-python)

# Killed 25 times here, and $(KILLS) times in the soak.
test-rust:
	PAR_TORTURE_KILLS=$${PAR_TORTURE_KILLS:-25} $(CARGO) test --locked --no-fail-fast

test-c: $(DEV)/libpar.so build/examples/invoke build/examples/stream_tools build/examples/epoll
	@set -e; empty=$$(mktemp -d); for example in invoke stream_tools epoll; do echo "== examples/c/$$example"; \
		(cd $$empty && OPENAI_API_KEY= $(abspath build/examples)/$$example >/dev/null); done; \
		rmdir $$empty # fails if an example has left a file
	$(MAKE) -C capi_tests check LIB_DIR=$(abspath $(DEV)) BUILD_DIR=$(abspath build/capi)

test-header: $(DEV)/libpar.so
	$(MAKE) -C capi_tests check-header LIB_DIR=$(abspath $(DEV)) BUILD_DIR=$(abspath build/capi)

# The wheel is built and installed as a user would, and tested from there.
test-python: $(DEV)/libpar.so
	@if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
		if [ -n "$$PAR_TEST_REQUIRE_ALL" ]; then echo "python3 with venv is required"; exit 1; fi; \
		echo "SKIPPED: the Python tests (apt-get install python3-venv)"; \
	else \
		set -e; \
		[ -x $(VENV)/bin/pytest ] || { $(PYTHON) -m venv $(VENV) && $(VENV)/bin/pip install -q --disable-pip-version-check pytest mypy; }; \
		PAR_LIBRARY=$(abspath $(DEV)/libpar.so) $(VENV)/bin/pip install -q --disable-pip-version-check --force-reinstall ./bindings/python; \
		$(VENV)/bin/pytest bindings/python/tests; \
		$(VENV)/bin/mypy --python-executable $(VENV)/bin/python --strict bindings/python/tests/typing_check.py; \
		OPENAI_API_KEY= $(VENV)/bin/python examples/python/chat.py "What is 17 + 25?" >/dev/null; \
	fi

# ---- what takes longer

soak:
	$(call run_parts,soak,soak-torture soak-model soak-stress soak-asan soak-valgrind soak-fuzz)

soak-torture:
	PAR_TORTURE_KILLS=$(KILLS) $(CARGO) test --locked --test torture
	PAR_CONTENTION_RUNS=$(TURNS) $(CARGO) test --locked --test contention

# The schedules of threads on one queue, chosen by shuttle.
soak-model:
	$(CARGO) test --locked --features model --lib -- events::queue::model

soak-stress: $(FAST)/libpar.so
	PAR_TEST_STRESS_SECONDS=$(STRESS) $(CARGO) test --locked --test registry
	PAR_TEST_STRESS_SECONDS=$(STRESS) $(MAKE) -C capi_tests check TESTS="registry threads runtimes leaks" \
		LIB_DIR=$(abspath $(FAST)) BUILD_DIR=$(abspath build/capi-fast)

soak-asan: $(FAST)/libpar.so
	$(MAKE) -C capi_tests check-asan LIB_DIR=$(abspath $(FAST)) BUILD_DIR=$(abspath build/capi-fast)

soak-valgrind: $(FAST)/libpar.so
	@if command -v valgrind >/dev/null; then $(MAKE) -C capi_tests check-valgrind LIB_DIR=$(abspath $(FAST)) BUILD_DIR=$(abspath build/capi-fast); \
	elif [ -n "$$PAR_TEST_REQUIRE_ALL" ]; then echo "valgrind is required and not installed"; exit 1; \
	else echo "SKIPPED: the C tests under valgrind (apt-get install valgrind)"; fi

# Random calls of the C ABI, each seed a sequence of its own.
soak-fuzz: $(FAST)/libpar.so
	PAR_TEST_SEEDS=$(FUZZ) PAR_TEST_SECONDS=1800 $(MAKE) -C capi_tests check TESTS=handles \
		LIB_DIR=$(abspath $(FAST)) BUILD_DIR=$(abspath build/capi-fast)

# Changes lines of the library one by one and names the changes that no test notices: days for everything, so say which part,
# such as FILES='src/store/writer.rs' MUTANT_TESTS='--test store --test contention', or a part of all with SHARD=1/50.
FILES        ?=
MUTANT_TESTS ?= --lib --tests
mutants:
	command -v cargo-mutants >/dev/null || $(CARGO) install --locked cargo-mutants
	PAR_TORTURE_KILLS=3 $(CARGO) mutants $(if $(FILES),--no-config $(addprefix --file=,$(FILES))) $(if $(SHARD),--shard $(SHARD)) \
		--baseline skip --timeout 300 -o target --cargo-arg=--locked $(addprefix --cargo-arg=,$(MUTANT_TESTS))

# Real providers, those whose keys are in the environment; costs a fraction of a cent.
live:
	PAR_TEST_LIVE=1 $(CARGO) test --locked --test live -- --nocapture

# ---- what is generated, and what is checked

header:
	touch build.rs
	$(CARGO) check --lib
	$(PYTHON) bindings/generate.py

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(PYTHON) bindings/generate.py --check

bench:
	$(CARGO) build --release --lib
	@ln -sf libpar.so target/release/libpar.so.$(SOVERSION)
	$(PYTHON) benches/run.py --lib-dir target/release

# ---- for users

install:
	$(CARGO) build --release --lib --locked
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include
	install -m 755 target/release/libpar.so $(DESTDIR)$(PREFIX)/lib/libpar.so.$(SOVERSION)
	ln -sf libpar.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libpar.so
	install -m 644 target/release/libpar.a $(DESTDIR)$(PREFIX)/lib/libpar.a
	install -m 644 include/par_ffi.h $(DESTDIR)$(PREFIX)/include/par_ffi.h
	printf '%s\n' 'prefix=$(PREFIX)' 'Name: libpar' 'Description: An agent runtime in one shared library' 'Version: $(VERSION)' \
		'Libs: -L$${prefix}/lib -lpar' 'Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc' 'Cflags: -I$${prefix}/include' \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/par.pc

clean:
	$(CARGO) clean
	rm -rf build benches/target
