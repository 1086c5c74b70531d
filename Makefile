# pi0.c: one Makefile, no generated files outside build/. `make help` lists the targets.
# Objects live in build/<flavour>/; flavours: release, asan (with UBSan), tsan, clang, fuzz.

CUDA_HOME ?= /usr/local/cuda
FLAVOUR ?= release
B := build/$(FLAVOUR)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
BENCH ?= pi0-532
BENCH_ARGS ?=
JOBS ?= $(shell nproc)

ifneq ($(filter clang fuzz,$(FLAVOUR)),)
CC := clang
CXX := clang++
endif
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

PKGS := jansson sentencepiece libjpeg libpng
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
VERSION := $(shell awk '/define PI0_VERSION_M|define PI0_VERSION_P/ { v = v s $$3; s = "." } END { print v }' include/pi0.h)
SOVERSION := $(firstword $(subst ., ,$(VERSION)))
COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)

# ---------------------------------------------------------------- flags

WARN := -Wall -Wextra -Werror -Wshadow -Wvla -Wcast-qual -Wformat=2 -Wundef
CWARN := -Wstrict-prototypes -Wmissing-prototypes
CONVERSION_DIRS := src/io/ src/model/ src/policy/ src/serve/
OPT := -O2 -g
SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread
SAN_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN := $(SAN_$(FLAVOUR))
CPPFLAGS_ALL = -Iinclude -Isrc -D_GNU_SOURCE $(CPPFLAGS)
# No contraction of a*b + c where the source does not ask for it: compilers would differ in bits.
CFLAGS_ALL = -std=c11 $(OPT) -ffp-contract=off -fPIC -fvisibility=hidden -pthread $(WARN) $(CWARN) \
             $(SAN) $(PKG_CFLAGS) $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 $(OPT) -fPIC -fvisibility=hidden -pthread $(WARN) $(SAN) $(PKG_CFLAGS) $(CXXFLAGS)
LDFLAGS_ALL = -Wl,--as-needed $(SAN) $(LDFLAGS)
LIBS = $(PKG_LIBS) $(CUDA_LIBS) -lstdc++ -lm -pthread

# Instruction sets come from the file name: x_avx2.c, x_avx512.c, x_avx512bf16.c, x_amx.c.
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
ISA_amx := $(ISA_avx512bf16) -mamx-tile -mamx-bf16 -mamx-int8
isa_of = $(if $(filter src/%,$(1)),$(ISA_$(lastword $(subst _, ,$(basename $(notdir $(1)))))))
conversion_of = $(if $(filter $(addsuffix %,$(CONVERSION_DIRS)),$(1)),-Wconversion)
# The only file that differs with CUDA, the only one that names the commit, and the tests' own headers.
defs_of = $(if $(filter src/backend/backend.c,$(1)),$(CUDA_DEFS)) $(if $(filter tests/%,$(1)),-I. -Itests) \
          $(if $(filter src/backend/cuda/% tests/cuda/%,$(1)),-isystem $(CUDA_HOME)/include) \
          $(if $(filter cli/bench.c cli/report.c,$(1)),-DPI0_COMMIT='"$(COMMIT)"')

# V=1 shows the commands.
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
say := @$(if $(filter 1,$(V)),:,printf '  %-5s %s\n')

# ---------------------------------------------------------------- sources

LIB_C := $(wildcard src/*.c src/base/*.c src/io/*.c src/model/*.c src/ref/*.c src/backend/*.c \
                    src/backend/cpu/*.c src/policy/*.c src/serve/*.c)
LIB_CC := $(wildcard src/policy/*.cc)
CLI_C := $(wildcard cli/*.c)

TEST_DEPS := $(B)/libtest.a $(B)/libpi0.a

# CUDA where nvcc is found. The other flavours test the host code and leave it out.
NVCC ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
CUDA ?= $(if $(and $(NVCC),$(filter release,$(FLAVOUR))),1,0)
.DEFAULT_GOAL := all
ifeq ($(CUDA),1)
-include src/backend/cuda/cuda.mk
endif

LIB_OBJ := $(LIB_C:%.c=$(B)/%.o) $(LIB_CC:%.cc=$(B)/%.o) $(CUDA_OBJ)
CLI_OBJ := $(CLI_C:%.c=$(B)/%.o)

# Tests: one program a file; tests/*.c beside them are linked where needed.
UNIT := $(patsubst %.c,$(B)/%,$(wildcard tests/unit/test_*.c))
STAGES := $(patsubst %.c,$(B)/%,$(wildcard tests/stages/test_*.c))
KERNELS := $(patsubst %.c,$(B)/%,$(wildcard tests/kernels/check_*.c))
REPLAY := $(patsubst tests/fuzz/fuzz_%.c,$(B)/tests/fuzz/replay_%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZERS := $(patsubst %.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
CLI_TESTS := $(wildcard tests/cli/*.sh)
TEST_LIB_C := $(wildcard tests/*.c)
# What runs on threads: the pool, the stages with several threads, the handles over them.
TSAN_TESTS := $(filter %_exact %_golden,$(STAGES)) $(filter %_threads %_cpu_backend %_policy,$(UNIT))

.PHONY: all lib tests check asan tsan fuzz clang-check lint format test test-full demo bench tables install \
        uninstall clean help setup setup-test force
.SECONDARY:
.DELETE_ON_ERROR:

# ---------------------------------------------------------------- build

all: build/pi0 ## library and command (with CUDA where nvcc is found; CUDA=0 leaves it out)
lib: build/libpi0.a build/libpi0.so ## static and shared library, only pi0_ names in either

build/pi0: $(B)/pi0
	$(Q)cp -f $< $@
$(B)/pi0: $(CLI_OBJ) $(B)/public/libpi0.a
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $(CLI_OBJ) $(B)/public/libpi0.a $(LIBS)

# $(B)/libpi0.a keeps every internal name, for the tests. The public one is a single object in which
# all but the pi0_ names are local: what is installed, and what the command is linked with.
$(B)/libpi0.a: $(LIB_OBJ) $(B)/cuda.flags
	$(say) AR $@
	@rm -f $@
	$(Q)$(AR) rcs $@ $(LIB_OBJ)
$(B)/public/libpi0.a: $(LIB_OBJ) $(B)/cuda.flags
	$(say) AR $@
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(LD) -r --force-group-allocation -o $(@D)/pi0.o $(LIB_OBJ)
	$(Q)objcopy --localize-hidden --wildcard --keep-global-symbol='pi0_*' $(@D)/pi0.o
	$(Q)$(AR) rcs $@ $(@D)/pi0.o
build/libpi0.a: $(B)/public/libpi0.a
	$(Q)cp -f $< $@
build/libpi0.so: $(LIB_OBJ) $(B)/cuda.flags src/pi0.map
	$(say) LINK $@
	$(Q)$(CXX) -shared $(LDFLAGS_ALL) -Wl,-soname,libpi0.so.$(SOVERSION) -Wl,--version-script=src/pi0.map \
	    -Wl,--no-undefined -o $@ $(LIB_OBJ) $(LIBS)
	$(Q)ln -sf libpi0.so build/libpi0.so.$(SOVERSION)

$(B)/%.o: %.c $(B)/build.flags
	@mkdir -p $(@D)
	$(say) CC $<
	$(Q)$(CC) $(CPPFLAGS_ALL) $(call defs_of,$<) $(CFLAGS_ALL) $(call conversion_of,$<) $(call isa_of,$<) \
	    -MMD -MP -c -o $@ $<
$(B)/%.o: %.cc $(B)/build.flags
	@mkdir -p $(@D)
	$(say) CXX $<
	$(Q)$(CXX) $(CPPFLAGS_ALL) $(CXXFLAGS_ALL) -MMD -MP -c -o $@ $<

$(B)/src/backend/backend.o: $(B)/cuda.flags
$(B)/cli/bench.o $(B)/cli/report.o: $(B)/commit.flags

# A stamp changes only when its text does, so that changed flags rebuild and unchanged ones do not.
stamp = @mkdir -p $(@D); echo '$(subst ','\'',$(1))' | cmp -s - $@ || echo '$(subst ','\'',$(1))' >$@
$(B)/build.flags: force
	$(call stamp,$(CC) $(CXX) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(CXXFLAGS_ALL))
$(B)/cuda.flags: force
	$(call stamp,$(CUDA_DEFS) $(CUDA_OBJ) $(CUDA_LIBS))
$(B)/commit.flags: force
	$(call stamp,$(COMMIT))

# ---------------------------------------------------------------- tests

$(B)/libtest.a: $(TEST_LIB_C:%.c=$(B)/%.o)
	$(say) AR $@
	@rm -f $@
	$(Q)$(AR) rcs $@ $^
TEST_LINK = $(Q)$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(B)/libtest.a $(B)/libpi0.a $(LIBS) -lcmocka
$(B)/tests/unit/test_%: $(B)/tests/unit/test_%.o $(TEST_DEPS)
	$(say) LINK $@
	$(TEST_LINK)
$(B)/tests/stages/test_%: $(B)/tests/stages/test_%.o $(TEST_DEPS)
	$(say) LINK $@
	$(TEST_LINK)
$(B)/tests/kernels/check_%: $(B)/tests/kernels/check_%.o $(TEST_DEPS)
	$(say) LINK $@
	$(TEST_LINK)
# A fuzz target over its kept corpus, without libFuzzer; and with it (clang).
$(B)/tests/fuzz/replay_%: $(B)/tests/fuzz/fuzz_%.o $(B)/tests/fuzz/replay.o $(TEST_DEPS)
	$(say) LINK $@
	$(TEST_LINK)
$(B)/tests/fuzz/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(TEST_DEPS)
	$(say) LINK $@
	$(Q)$(CXX) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $< $(B)/libtest.a $(B)/libpi0.a $(LIBS)

# The longest first: programs run JOBS at a time.
TEST_PROGRAMS := $(STAGES) $(KERNELS) $(UNIT) $(REPLAY)
tests: $(B)/pi0 $(TEST_PROGRAMS)
check: tests ## unit, stage, kernel and command tests, without sanitizers
	@PI0=$(B)/pi0 JOBS=$(JOBS) tests/run.sh check-$(FLAVOUR) $(TEST_PROGRAMS) $(CLI_TESTS)
asan: ## the same under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory check FLAVOUR=asan
tsan: ## what runs on threads, under ThreadSanitizer
	@$(MAKE) --no-print-directory tsan-check FLAVOUR=tsan
tsan-check: $(TSAN_TESTS)
	@JOBS=$(JOBS) tests/run.sh check-tsan $(TSAN_TESTS)
clang-check: ## unit and stage tests as built by clang
	@$(MAKE) --no-print-directory clang-run FLAVOUR=clang
clang-run: $(B)/pi0 $(UNIT) $(STAGES) $(KERNELS)
	@JOBS=$(JOBS) tests/run.sh check-clang $(UNIT) $(STAGES)
fuzz: ## every fuzz target, FUZZ_SECONDS (60) each
	@$(MAKE) --no-print-directory fuzz-run FLAVOUR=fuzz
fuzz-run: $(FUZZERS)
	@JOBS=$(JOBS) FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz.sh $(FUZZERS)

test: ## set up, build and run everything (what .ci/run calls)
	@tools/setup.sh test
	@FUZZ_SECONDS=$(FUZZ_SECONDS) JOBS=$(JOBS) CUDA=$(CUDA) tests/all.sh
test-full: build/pi0 ## the full-size golden cases: minutes, and 9 GB of memory
	@tests/full.sh
demo: ## set up, build, run the main job on the images in assets/
	@tools/setup.sh build
	@$(MAKE) --no-print-directory -j$(JOBS) build/pi0
	@tools/demo.sh
bench: build/pi0 ## BENCH (pi0-532) on the CPU, at full size: 9 GB of memory; BENCH_ARGS adds options
	build/pi0 bench $(BENCH) --backend cpu $(BENCH_ARGS)

tables: ## the tables of docs/benchmark.md and README.md from bench/results
	@tools/benchmark_tables.py docs/benchmark.md README.md

# ---------------------------------------------------------------- lint

LINT_C := $(LIB_C) $(CLI_C) $(wildcard tests/*.c tests/*/*.c examples/*.c)
FORMATTED := $(wildcard include/*.h src/*.[ch] src/*/*.[ch] src/*/*.cc src/*/*/*.[ch] src/*/*/*.cu src/*/*/*.cuh \
             src/*/*/*/*.[ch] src/*/*/*/*.cu src/*/*/*/*.cuh cli/*.[ch] tests/*.[ch] tests/*/*.[ch] examples/*.c)
TIDY := $(patsubst %,$(B)/tidy/%.ok,$(LIB_C) $(CUDA_C) $(CLI_C) $(LIB_CC) $(wildcard examples/*.c))
CPPCHECK := cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
            --suppressions-list=tools/cppcheck.txt --error-exitcode=1 -j$(JOBS) \
            --cppcheck-build-dir=build/cppcheck -Iinclude -Isrc -D_GNU_SOURCE

lint: ## house rules, layout, clang-tidy, cppcheck
	@MAKE='$(MAKE)' JOBS=$(JOBS) CUDA=$(CUDA) tools/lint.sh
lint-format:
	@clang-format --dry-run --Werror $(FORMATTED)
lint-tidy: $(TIDY)
lint-cppcheck:
	@mkdir -p build/cppcheck
	@$(CPPCHECK) src cli
$(B)/tidy/%.c.ok: %.c .clang-tidy
	@mkdir -p $(@D)
	$(say) TIDY $<
	@clang-tidy --quiet $< -- $(CPPFLAGS_ALL) -std=c11 $(PKG_CFLAGS) $(call defs_of,$<) $(call isa_of,$<) -w 2>$@.log || { cat $@.log; exit 1; }
	@touch $@
$(B)/tidy/%.cc.ok: %.cc .clang-tidy
	@mkdir -p $(@D)
	$(say) TIDY $<
	@clang-tidy --quiet $< -- $(CPPFLAGS_ALL) -std=c++17 $(PKG_CFLAGS) -w 2>$@.log || { cat $@.log; exit 1; }
	@touch $@
format: ## lay out every source file
	clang-format -i $(FORMATTED)

# ---------------------------------------------------------------- install

bindir = $(DESTDIR)$(PREFIX)/bin
libdir = $(DESTDIR)$(PREFIX)/lib
incdir = $(DESTDIR)$(PREFIX)/include
mandir = $(DESTDIR)$(PREFIX)/share/man/man1

install: build/pi0 lib ## header, libraries, pkg-config file, command, manual page (DESTDIR, PREFIX)
	install -d $(bindir) $(libdir)/pkgconfig $(incdir) $(mandir)
	install -m 755 build/pi0 $(bindir)/pi0
	install -m 644 include/pi0.h $(incdir)/pi0.h
	install -m 644 build/libpi0.a $(libdir)/libpi0.a
	install -m 755 build/libpi0.so $(libdir)/libpi0.so.$(VERSION)
	ln -sf libpi0.so.$(VERSION) $(libdir)/libpi0.so.$(SOVERSION)
	ln -sf libpi0.so.$(SOVERSION) $(libdir)/libpi0.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@REQUIRES@|$(PKGS)|' \
	    -e 's|@LIBS@|$(strip $(CUDA_LIBS) -lstdc++ -lm -pthread)|' pi0.pc.in >$(libdir)/pkgconfig/pi0.pc
	install -m 644 docs/pi0.1 $(mandir)/pi0.1
uninstall:
	rm -f $(bindir)/pi0 $(incdir)/pi0.h $(libdir)/libpi0.* $(libdir)/pkgconfig/pi0.pc $(mandir)/pi0.1

setup: ## install what a build needs (Debian packages)
	@tools/setup.sh build
setup-test: ## install what the tests need
	@tools/setup.sh test
clean: ## remove build/
	rm -rf build
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

-include $(shell find $(B) -name '*.d' 2>/dev/null)
