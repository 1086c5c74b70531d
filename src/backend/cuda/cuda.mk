# The CUDA backend: included by the Makefile where nvcc is found. CUDA_ARCHS can be cut down for a
# quick build on one's own card: make CUDA_ARCHS=90a
# sm_80 A100, 86 RTX 30, 87 Orin, 89 RTX 40, 90a H100/H200, 100 B200, 110 Thor, 120 RTX 50; PTX of the
# last for what comes after. Files with _sm90 in their name hold sm_90a instructions and are built for it alone.
CUDA_ARCHS ?= 80 86 87 89 90a 100 110 120
CUDA_PTX ?= $(lastword $(CUDA_ARCHS))
CUDA_DEFS := -DPI0_CUDA
CUDA_LIBS := $(CUDA_HOME)/lib64/libcudart_static.a -ldl -lrt

CUDA_C := $(addprefix src/backend/cuda/,cuda.c attention.c device.c select.c upload.c vision.c prefix.c early.c denoise.c inspect.c time.c \
            kernels/gemm_lt.c)
CUDA_CU := $(addprefix src/backend/cuda/kernels/,attn_plain.cu attn_sm80.cu attn_sm90.cu attn_vision_sm90.cu denoise.cu denoise_sm90.cu \
             denoise_sm90_pack.cu early_sm90.cu early_wide_sm90.cu elementwise.cu embed.cu gemm_sm90.cu norm.cu proj_sm90.cu qkv_sm90.cu suffix_attn_sm90.cu \
             suffix_heads_sm90.cu suffix_sm90.cu weights.cu vision_sm90.cu)
CUDA_C_OBJ := $(CUDA_C:%.c=$(B)/%.o)
CUDA_CU_OBJ := $(CUDA_CU:%.cu=$(B)/%.cu.o)
CUDA_OBJ := $(CUDA_C_OBJ) $(CUDA_CU_OBJ)

CUDA_GENCODE := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
                -gencode arch=compute_$(CUDA_PTX),code=compute_$(CUDA_PTX)
gencode_of = $(if $(findstring _sm90,$(1)),-gencode arch=compute_90a$(comma)code=sm_90a,$(CUDA_GENCODE))
comma := ,
NVCCFLAGS = -std=c++17 -O3 -t 2 -Iinclude -Isrc --Werror all-warnings \
            -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra

$(B)/%.cu.o: %.cu $(B)/build.flags
	@mkdir -p $(@D)
	$(say) NVCC $<
	$(Q)$(NVCC) $(NVCCFLAGS) $(call gencode_of,$<) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

-include $(CUDA_CU_OBJ:.o=.d)

# Tests: check_* run on a GPU and skip without one (check_x_sm90: without a Hopper one); test_* are
# cmocka programs that need none.
CUDA_TESTS := $(patsubst %.c,$(B)/%,$(wildcard tests/cuda/check_*.c tests/cuda/test_*.c)) \
              $(patsubst %.cu,$(B)/%,$(wildcard tests/cuda/check_*.cu))
$(B)/tests/cuda/%: $(B)/tests/cuda/%.o $(TEST_DEPS)
	$(say) LINK $@
	$(TEST_LINK)
$(B)/tests/cuda/%: $(B)/tests/cuda/%.cu.o $(TEST_DEPS)
	$(say) LINK $@
	$(TEST_LINK)
$(B)/tests/cuda/check_denoise_sm90: $(patsubst %.cu,$(B)/%.cu.o,$(wildcard src/backend/cuda/kernels/denoise_sm90*.cu))
$(B)/tests/cuda/check_engine: LDFLAGS_ALL += -Wl,--wrap=cudaGraphInstantiate

cuda-tests: $(CUDA_TESTS)
cuda-check: $(CUDA_TESTS)
	@JOBS=1 tests/run.sh check-cuda $(CUDA_TESTS)
gpu-check: build/pi0 $(CUDA_TESTS) ## every check that needs a GPU: golden cases, kernels, sanitizers
	@JOBS=1 tests/run.sh check-cuda $(CUDA_TESTS); rc=$$?; tests/gpu.sh && exit $$rc
gpu-bench: build/pi0 ## the named workloads on a GPU, rows appended to bench/results/
	@bench/gpu.sh
.PHONY: cuda-tests cuda-check gpu-check gpu-bench
