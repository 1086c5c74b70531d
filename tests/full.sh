#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# full.sh: the golden cases at full size, weights computed from the seed in each case's config.json.
# Needs 9 GB of memory and some minutes a case. BACKEND (auto) and PRECISIONS ("bf16") may be set.
# The last line is "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.." || exit 2
pi0=${PI0:-build/pi0}
passed=0 failed=0 skipped=0
free_gb=$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
for case in pi0_h10 pi0_full pi05_full; do
    for precision in ${PRECISIONS:-bf16}; do
        if [ "$free_gb" -lt 10 ]; then
            echo "skipped: $case $precision: $free_gb GB of memory free, 10 needed"
            skipped=$((skipped + 1))
            continue
        fi
        echo "== $case $precision"
        if "$pi0" check --case "tests/golden/$case" --backend "${BACKEND:-auto}" --precision "$precision" </dev/null; then
            passed=$((passed + 1))
        else
            echo "FAIL $case $precision"
            failed=$((failed + 1))
        fi
    done
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
