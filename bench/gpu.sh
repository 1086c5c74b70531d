#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# gpu.sh: the named workloads at one sample and pi0-788 by batch, on this machine's GPU. Rows are
# printed and appended to bench/results/<device>.jsonl. BENCH_ARGS adds options.
set -eu
cd "$(dirname "$0")/.."
command -v nvidia-smi >/dev/null || { echo "bench: no NVIDIA GPU here" >&2; exit 1; }
device=$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0 | tr 'A-Z ' 'a-z-')
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu --format=csv
mkdir -p bench/results
rows=bench/results/$device.jsonl
# shellcheck disable=SC2086 # options
build/pi0 bench pi0-788,pi0-532,pi0-799-h50,pi05-968-h50 --backend cuda --n 300 --warmup 20 --json --append "$rows" ${BENCH_ARGS:-}
# shellcheck disable=SC2086
build/pi0 bench pi0-788 --backend cuda --batch 1,2,4,8,16,32,64 --n 200 --warmup 5 --json --append "$rows" ${BENCH_ARGS:-}
