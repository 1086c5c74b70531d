#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# gpu.sh: the named workloads at one sample, pi0-788 by batch, every kernel by itself, and the report,
# on this machine's GPU. Rows are printed and appended to bench/results/<device>.jsonl, the kernels'
# to <device>.kernels.jsonl; the report is kept as <device>.report.json. PARTS names what to run
# (default "latency batch kernels report"), PI0 the program, BENCH_ARGS adds options. The tables of docs/benchmark.md
# come from these files: tools/benchmark_tables.py.
set -eu
cd "$(dirname "$0")/.."
command -v nvidia-smi >/dev/null || { echo "bench: no NVIDIA GPU here" >&2; exit 1; }
device=$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0 | tr 'A-Z ' 'a-z-')
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu --format=csv
mkdir -p bench/results
kept=bench/results/$device
named=pi0-788,pi0-532,pi0-799-h50,pi05-968-h50
bench() {
    local start=$SECONDS
    # shellcheck disable=SC2086 # options
    "${PI0:-build/pi0}" bench "$@" --backend cuda --quiet ${BENCH_ARGS:-}
    echo "bench: $((SECONDS - start)) s" >&2
}
for part in ${PARTS:-latency batch kernels report}; do
    case $part in
    latency) bench $named --n 300 --warmup 20 --json --append "$kept.jsonl" ;;
    batch)
        bench pi0-788 --batch 2,4,8,16 --n 200 --warmup 3 --json --append "$kept.jsonl"
        bench pi0-788 --batch 32,64 --n 100 --warmup 3 --json --append "$kept.jsonl"
        bench pi0-788 --batch 128 --n 20 --warmup 2 --json --append "$kept.jsonl"
        ;;
    kernels)
        # the last run's rows alone: a table has one row a shape
        rm -f "$kept.kernels.jsonl"
        bench pi0-532,pi0-788,pi05-968-h50 --kernels --json --append "$kept.kernels.jsonl"
        bench pi0-788 --kernels --batch 8 --json --append "$kept.kernels.jsonl"
        ;;
    report)
        bench $named --blocks 5 --block-seconds 0.4 --load-seconds 1.5 --report build/gpu-report
        cp build/gpu-report/report.json "$kept.report.json"
        for chart in build/gpu-report/*.svg; do
            cp "$chart" "docs/benchmark/$device-${chart##*/}"
        done
        ;;
    *)
        echo "bench: PARTS: found $part, expected latency, batch, kernels or report" >&2
        exit 2
        ;;
    esac
done
