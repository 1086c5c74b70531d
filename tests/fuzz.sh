#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh FUZZER…: runs each libFuzzer program for FUZZ_SECONDS, JOBS at a time, from its kept corpus
# tests/fuzz/corpus/<thing>. What it finds on the way stays in build/fuzz-corpus/<thing>; an input
# that crashes is left in build/fuzz-crash/ and belongs, once mended, into the kept corpus.
# The last line is "N passed, N failed, N skipped", one a fuzzer.
set -u
cd "$(dirname "$0")/.." || exit 2

if [ "${1:-}" = --one ]; then
    fuzzer=$2
    thing=$(basename "$fuzzer")
    thing=${thing#fuzz_}
    seeds=tests/fuzz/corpus/$thing
    log=build/test/fuzz/$thing.log
    mkdir -p "build/fuzz-corpus/$thing" build/fuzz-crash build/test/fuzz
    [ -d "$seeds" ] || { echo "  FAIL $thing: no seed corpus $seeds"; exit 1; }
    limit=${FUZZ_MAX_LEN:-65536}
    if "$fuzzer" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -max_len="$limit" \
        -print_final_stats=1 -artifact_prefix="build/fuzz-crash/$thing-" \
        "build/fuzz-corpus/$thing" "$seeds" >"$log" 2>&1 </dev/null; then
        awk -v t="$thing" '/number_of_executed_units/ { n = $2 } /new_units_added/ { a = $2 }
            END { printf "  ok   %-20s %10d inputs, %d new\n", t, n, a }' "$log"
        exit 0
    fi
    echo "  FAIL $thing"
    tail -60 "$log" | sed 's/^/      | /'
    exit 1
fi

rm -rf build/test/fuzz build/test/fuzz.count
mkdir -p build/test/fuzz
passed=0 failed=0
# shellcheck disable=SC2016 # $0 is the inner shell's
while read -r rc; do
    if [ "$rc" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done < <(printf '%s\0' "$@" |
    xargs -0 -r -n 1 -P "${JOBS:-1}" sh -c 'tests/fuzz.sh --one "$0" >&2; echo $?')
echo "$passed $failed 0" >build/test/fuzz.count
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
