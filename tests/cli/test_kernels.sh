#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test_kernels.sh: `pi0 bench --kernels` over the small network on the CPU: the table, the JSON against
# its schema, what it is not taken with; and the tables of docs/benchmark.md against bench/results. No
# time is judged.
# shellcheck disable=SC2016 # quoted scripts take their own arguments
# shellcheck source=tests/cli/checks.bash
. "$(dirname "$0")/checks.bash"

tiny=("$pi0" bench tiny --kernels --backend cpu --threads 1 --quiet)
good "bench --kernels" "${tiny[@]}"
holds "nothing on stderr" [ ! -s "$work/err" ]
for op in "vision fc1" "prefix gate·up" "denoise down"; do
    holds "a row of $op" grep -Eq "^  $op +[0-9]+ x [0-9]+ x [0-9]+ +[0-9]+ +[0-9.]+ +- .* linear_" "$work/out"
done
holds "what it does besides" grep -q 'linear_.*(bias, GELU)$' "$work/out"
holds "the sum" grep -Eq '^  these take [0-9.]+ ms of a call of [0-9.]+ ms$' "$work/out"
good "--batch: a table each" "${tiny[@]}" --batch 1,2
holds "rows of two samples" bash -c 'grep -q "batch 2 " "$1" && grep -Eq "^  vision o +64 x " "$1"' - "$work/out"
good "--json" "${tiny[@]}" --json --append "$work/rows.jsonl"
holds "--append: the same row" cmp "$work/out" "$work/rows.jsonl"
if command -v python3 >/dev/null; then
    holds "it fits the schema" python3 tools/validate_json.py bench/kernels.schema.json "$work/out"
    sed 's/"floor_us"/"floor"/' "$work/out" >"$work/wrong.json"
    holds "the validator finds a missing key" bash -c '! python3 tools/validate_json.py bench/kernels.schema.json "$1"' - "$work/wrong.json"
    good "the tables of the pages are those of bench/results" python3 tools/benchmark_tables.py --check docs/benchmark.md README.md
    sed 's/| 1 |/| 2 |/' docs/benchmark.md >"$work/page.md"
    holds "a table typed over is found" bash -c '! python3 tools/benchmark_tables.py --check "$1"' - "$work/page.md"
else
    skip "JSON and tables" "python3 is not there"
fi
bad "--kernels with --report" "takes no --report" "${tiny[@]}" --report "$work/x"
bad "--kernels with --n" "takes no --report and no --n" "${tiny[@]}" --n 3
bad "--kernels is bench's" "unknown option --kernels" "$pi0" run --kernels
if ! "$pi0" inspect --synthetic pi0_tiny --backend cuda >/dev/null 2>&1; then
    bad "--kernels on a GPU that is not there" "cuda|driver|GPU" "$pi0" bench tiny --kernels --backend cuda
fi
finish
