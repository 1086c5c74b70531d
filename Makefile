# pi0.c: one Makefile, no generated files outside build/.
#   make            library and command (with CUDA where nvcc is found; CUDA=0 leaves it out)
#   make demo       set up, build, run the main job on real images
#   make test       set up, build, run every test (what .ci/run calls)
#   make help       all targets
# Objects live in build/<flavour>/; flavours: release, asan, tsan, clang, fuzz.

CC ?= gcc
CXX ?= g++
FLAVOUR ?= release
B := build/$(FLAVOUR)
PKGS := jansson sentencepiece libjpeg libpng
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS))
PKG_LIBS = $(shell pkg-config --libs $(PKGS))

WARN := -Wall -Wextra -Werror -Wshadow -Wvla -Wcast-qual -Wformat=2 -Wundef
CWARN := -Wstrict-prototypes -Wmissing-prototypes
CONVERSION_DIRS := src/io/ src/model/ src/policy/ src/serve/
OPT := -O2 -g
SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread
CPPFLAGS_ALL = -Iinclude -Isrc -D_GNU_SOURCE $(CUDA_DEFS) $(CPPFLAGS)
CFLAGS_ALL = -std=c11 $(OPT) -ffp-contract=off -fPIC -fvisibility=hidden -pthread $(WARN) $(CWARN) \
             $(SAN_$(FLAVOUR)) $(PKG_CFLAGS) $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 $(OPT) -fPIC -fvisibility=hidden -pthread $(WARN) $(SAN_$(FLAVOUR)) $(PKG_CFLAGS) $(CXXFLAGS)
LIBS = $(PKG_LIBS) $(CUDA_LIBS) -lstdc++ -lm -pthread

# Instruction sets come from the file name: x_avx2.c, x_avx512.c, x_avx512bf16.c, x_amx.c.
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
ISA_amx := $(ISA_avx512bf16) -mamx-tile -mamx-bf16 -mamx-int8
isa_of = $(lastword $(subst _, ,$(basename $(notdir $(1)))))

LIB_C := $(wildcard src/*.c src/base/*.c src/io/*.c src/model/*.c src/ref/*.c src/backend/*.c \
                    src/backend/cpu/*.c src/policy/*.c src/serve/*.c)
LIB_CC := $(wildcard src/policy/*.cc)
CLI_C := $(wildcard cli/*.c)

NVCC ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
CUDA ?= $(if $(NVCC),1,0)
ifeq ($(CUDA),1)
-include src/backend/cuda/cuda.mk
endif

LIB_OBJ := $(LIB_C:%.c=$(B)/%.o) $(LIB_CC:%.cc=$(B)/%.o) $(CUDA_OBJ)
CLI_OBJ := $(CLI_C:%.c=$(B)/%.o)

.PHONY: all lib clean
all: build/pi0
lib: $(B)/libpi0.a

build/pi0: $(B)/pi0
	cp -f $< $@
$(B)/pi0: $(CLI_OBJ) $(B)/libpi0.a
	$(CC) $(SAN_$(FLAVOUR)) -o $@ $(CLI_OBJ) $(B)/libpi0.a $(LIBS)
$(B)/libpi0.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(if $(filter $(addsuffix %,$(CONVERSION_DIRS)),$<),-Wconversion) \
	    $(ISA_$(call isa_of,$<)) -MMD -MP -c -o $@ $<
$(B)/%.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS_ALL) $(CXXFLAGS_ALL) -MMD -MP -c -o $@ $<

clean:
	rm -rf build
-include $(LIB_OBJ:.o=.d) $(CLI_OBJ:.o=.d)
