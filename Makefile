# libpar. `make demo` runs the main job offline, `make test` passes all tests; each sets up what it needs.
#
#   make demo     build, and run examples/c/stream_tools.c: a streaming agent that calls the host's own function
#   make test     Rust, C (plain, AddressSanitizer, valgrind) and Python tests; what is not installed is skipped visibly,
#                 or, with PAR_TEST_REQUIRE_ALL=1, is a failure
#   make header   regenerate include/par_ffi.h, include/par.abi.json and the generated layers of the bindings
#   make lint     formatting, clippy, and that generated files are up to date
#   make bench    the benchmarks of benches/README.md, as one table
#   make install  library, header and par.pc below PREFIX (default /usr/local) and DESTDIR

PREFIX  ?= /usr/local
CARGO   ?= cargo
PYTHON  ?= python3
CC      ?= cc

VERSION  := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOVERSION := $(shell echo $(VERSION) | sed 's/^0\.\([0-9]*\)\..*/0.\1/; t; s/^\([0-9]*\)\..*/\1/')
FAST     := target/fast
VENV     := build/venv
SOURCES  := $(shell find src -name '*.rs') Cargo.toml Cargo.lock build.rs cbindgen.toml

.PHONY: demo test test-rust test-c test-python live header lint bench install clean
.DELETE_ON_ERROR:

# ---- the library, without the long link of a release

$(FAST)/libpar.so: $(SOURCES)
	$(CARGO) build --profile fast --lib
	@touch $@
	@ln -sf libpar.so $(FAST)/libpar.so.$(SOVERSION)

$(FAST)/examples/%: examples/c/%.c $(FAST)/libpar.so include/par_ffi.h
	@mkdir -p $(@D)
	$(CC) -std=gnu99 -O1 -Wall -Wextra -Wpedantic -Werror -Iinclude $< -o $@ -L$(FAST) -lpar -Wl,-rpath,$(abspath $(FAST))

demo: $(FAST)/examples/stream_tools
	@echo
	@$<

# ---- tests

test: test-rust test-c test-python

test-rust:
	$(CARGO) test --locked

test-c: $(FAST)/libpar.so $(FAST)/examples/invoke $(FAST)/examples/stream_tools $(FAST)/examples/epoll
	@for example in invoke stream_tools epoll; do echo "== examples/c/$$example"; OPENAI_API_KEY= $(FAST)/examples/$$example >/dev/null || exit 1; done
	$(MAKE) -C capi_tests check check-header LIB_DIR=$(abspath $(FAST)) BUILD_DIR=$(abspath build/capi)
	$(MAKE) -C capi_tests check-asan LIB_DIR=$(abspath $(FAST)) BUILD_DIR=$(abspath build/capi)
	@if command -v valgrind >/dev/null; then $(MAKE) -C capi_tests check-valgrind LIB_DIR=$(abspath $(FAST)) BUILD_DIR=$(abspath build/capi); \
	elif [ -n "$$PAR_TEST_REQUIRE_ALL" ]; then echo "valgrind is required and not installed"; exit 1; \
	else echo "SKIPPED: the C tests under valgrind (apt-get install valgrind)"; fi

# The wheel is built and installed as a user would, and tested from there.
test-python: $(FAST)/libpar.so
	@if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
		if [ -n "$$PAR_TEST_REQUIRE_ALL" ]; then echo "python3 with venv is required"; exit 1; fi; \
		echo "SKIPPED: the Python tests (apt-get install python3-venv)"; \
	else \
		set -e; \
		[ -x $(VENV)/bin/pytest ] || { $(PYTHON) -m venv $(VENV) && $(VENV)/bin/pip install -q --disable-pip-version-check pytest mypy; }; \
		PAR_LIBRARY=$(abspath $(FAST)/libpar.so) $(VENV)/bin/pip install -q --disable-pip-version-check --force-reinstall ./bindings/python; \
		$(VENV)/bin/pytest bindings/python/tests; \
		$(VENV)/bin/mypy --python-executable $(VENV)/bin/python --strict bindings/python/tests/typing_check.py; \
		OPENAI_API_KEY= $(VENV)/bin/python examples/python/chat.py "What is 17 + 25?" >/dev/null; \
	fi

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
