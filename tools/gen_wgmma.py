#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes src/backend/cuda/kernels/wgmma_sm90.inc: one inline function per wgmma shape.

PTX wants every accumulator register spelt out, so the file is generated:
    python3 tools/gen_wgmma.py > src/backend/cuda/kernels/wgmma_sm90.inc
SHAPES lists the n of the m64nNk16 products in use (PTX ISA, "wgmma.mma_async")."""

SHAPES = [16, 24, 40, 48, 56, 64, 80, 88, 96, 104, 112, 128, 136, 144, 160, 168, 176, 192, 200, 208, 224]


def emit(n, a_in_registers, a_mn_major=False):
    regs = n // 2
    acc = ", ".join(f"%{i}" for i in range(regs))
    name = f"wgmma_rs_n{n}" if a_in_registers else f"wgmma_ss_ta_n{n}" if a_mn_major else f"wgmma_ss_n{n}"
    print(f"/* d[64][{n}] = a[64][16] · b[16][{n}] + (accumulate ? d : 0); bf16 in, f32 out; "
          f"{'a in registers, b in' if a_in_registers else 'a and b in'} shared memory, K-major"
          f"{' (b); a MN-major' if a_mn_major else ''}"
          f"{' (a); b K-major or MN-major by TRANS_B' if a_in_registers else ''} */")
    if a_in_registers:
        print("template <int TRANS_B>")
        print(f"static __device__ __forceinline__ void {name}(float (&d)[{regs}], const uint32_t (&a)[4], "
              "uint64_t b, int accumulate)")
    else:
        print(f"static __device__ __forceinline__ void {name}(float (&d)[{regs}], uint64_t a, uint64_t b, "
              "int accumulate)")
    print("{")
    first = regs
    operands = f"{{%{first}, %{first+1}, %{first+2}, %{first+3}}}, %{first+4}" if a_in_registers else f"%{first}, %{first+1}"
    pred = first + (5 if a_in_registers else 2)
    tail = f", %{pred+1}" if a_in_registers else ", 1, 0" if a_mn_major else ", 0, 0"
    print('    asm volatile("{\\n.reg .pred p;\\n"')
    print(f'                 "setp.ne.b32 p, %{pred}, 0;\\n"')
    print(f'                 "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 "')
    print('                 "{' + acc + '}, "')
    print(f'                 "{operands}, p, 1, 1{tail};\\n}}\\n"')
    outs = ", ".join(f'"+f"(d[{i}])' for i in range(regs))
    if a_in_registers:
        ins = '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TRANS_B)'
    else:
        ins = '"l"(a), "l"(b), "r"(accumulate)'
    print(f"                 : {outs}")
    print(f"                 : {ins});")
    print("}\n")


print("/* SPDX-License-Identifier: Apache-2.0")
print(" * wgmma_sm90: written by tools/gen_wgmma.py; do not edit. */")
for n in SHAPES:
    emit(n, False)
for n in (8, 16, 64, 256):
    emit(n, True)
for n in (40, 56):
    emit(n, False, True)
print("/* d += a · b by the shape's name. */")
print("template <int N> static __device__ __forceinline__ void mma(float (&d)[N / 2], uint64_t a, uint64_t b, "
      "int accumulate);")
for n in SHAPES:
    print(f"template <> __device__ __forceinline__ void mma<{n}>(float (&d)[{n // 2}], uint64_t a, uint64_t b, int accumulate)")
    print("{")
    print(f"    wgmma_ss_n{n}(d, a, b, accumulate);")
    print("}")
