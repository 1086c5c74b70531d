#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lint.sh: every check of the house rules that a program can make; each is one test.
# The last line is "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.." || exit 2
make="${MAKE:-make} --no-print-directory"
jobs=${JOBS:-1}
passed=0 failed=0
mkdir -p build/test

check() {
    local name=$1 t=$SECONDS log=build/test/lint-$1.log
    shift
    if "$@" >"$log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        printf '  ok   lint %-10s %4d s\n' "$name" $((SECONDS - t))
    else
        failed=$((failed + 1))
        printf '  FAIL lint %s\n' "$name"
        sed 's/^/      | /' "$log" | head -n 200
    fi
}
# shellcheck disable=SC2086 # a command with its options
run_make() { $make "$@"; }

check includes tools/lint_includes.sh
check words tools/lint_words.sh
run_make -j"$jobs" CUDA="${CUDA:-0}" build/release/libpi0.a >build/test/lint-build.log 2>&1
check symbols tools/lint_symbols.sh build/release/libpi0.a
check format run_make lint-format
check tidy run_make -k -j"$jobs" CUDA="${CUDA:-0}" lint-tidy
check cppcheck run_make lint-cppcheck
# shellcheck disable=SC2046 # names of ours, without spaces
check shell shellcheck $(git ls-files --cached --others --exclude-standard '*.sh') .ci/run

echo "$passed $failed 0" >build/test/lint.count
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
