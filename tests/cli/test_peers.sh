#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test_peers.sh: what tools/peers does without openpi, lerobot or PyTorch: options, what is said where a package is
# missing, and the report of a model that only sleeps: its form, and --compare over it. No time is judged.
# shellcheck disable=SC2016 # quoted scripts take their own arguments
# shellcheck source=tests/cli/checks.bash
. "$(dirname "$0")/checks.bash"
export PYTHONDONTWRITEBYTECODE=1
if ! command -v python3 >/dev/null; then
    skip "tools/peers" "python3 is not there"
    finish
fi

mkdir "$work/none"
for name in openpi lerobot; do
    echo "raise ImportError('No module named $name')" >"$work/none/$name.py"
done
for script in openpi_pytorch lerobot_policy; do
    good "$script --help" python3 "tools/peers/$script.py" --help
    holds "$script --help tells what is timed" grep -q '^What is timed: u8 pixels' "$work/out"
    PYTHONPATH=$work/none python3 "tools/peers/$script.py" --out "$work/x" >"$work/out" 2>"$work/err"
    holds "$script: exit code 1 without its package" [ $? -eq 1 ]
    holds "$script: says which, and what to do" bash -c 'head -n 1 "$1" | grep -q "^$2.py: No module named" && sed 1d "$1" | grep -q "^Run this with the environment"' - "$work/err" "$script"
    for wrong in "--workload pi0-7" "--batch 1,0" "--compile fast" "--n 0" "--steps x"; do
        # shellcheck disable=SC2086 # an option and its value
        python3 "tools/peers/$script.py" $wrong --out "$work/x" >"$work/out" 2>"$work/err"
        holds "$script: exit code 2 on $wrong" [ $? -eq 2 ]
        holds "$script: names ${wrong%% *}" grep -q -- "argument ${wrong%% *}" "$work/err"
    done
done
holds "no report is left behind" [ ! -e "$work/x" ]

fake() { python3 tests/cli/fake_peer.py --n 3 --blocks 2 --warmup 1 "$@"; }
good "batches" fake --batch 1,8,64 --out "$work/one"
holds "prints a line a batch" bash -c 'grep -Eq "^fake pi0-788 ×8: p50 [0-9.]+ ms, .* samples/s; first call [0-9.]+ s$" "$1" && grep -qx "fake pi0-788 ×64: out of memory" "$1"' - "$work/out"
good "no batch of 1" fake --batch 2 --workload pi05-968-h50 --out "$work/two"
for report in one two; do
    holds "report $report fits the schema" python3 tools/validate_json.py bench/report.schema.json "$work/$report/report.json"
done
holds "no headline without a batch of 1" grep -q '"headline": {' "$work/two/report.json"
holds "prefix rows as computed" grep -q '"prefix_tokens": 788' "$work/one/report.json"
good "--compare" "$pi0" bench --compare "$work/one/report.json" "$work/one/report.json"
holds "--compare: a ratio of 1" grep -Eq '^\| pi0-788 \| [0-9.]+ \| [0-9.]+ \| 1\.000 \|' "$work/out"
holds "--compare: a row a batch" bash -c 'grep -Eq "^\| 8 \| [0-9.]+ \| [0-9.]+ \| 1\.000 \|" "$1"' - "$work/out"
holds "--compare: what the reports note" bash -c 'grep -qx "A: f32; sleeps\." "$1" && grep -qx "B: f32; sleeps\." "$1"' - "$work/out"
holds "--compare: no table of stages where there are none" bash -c '! grep -q Stages "$1"' - "$work/out"
good "--compare of two workloads" "$pi0" bench --compare "$work/one/report.json" "$work/two/report.json"
holds "--compare: says that they share no batch" grep -qx 'Section batch: A measured pi0-788, B pi05-968-h50; not compared\.' "$work/out"
sed 's/"pi0-788"/"pi0-532"/' "$work/one/report.json" >"$work/other.json"
good "--compare of two headlines" "$pi0" bench --compare "$work/one/report.json" "$work/other.json"
holds "--compare: says that they share no row" grep -qx 'Section Headline: no row is in both\.' "$work/out"
finish
