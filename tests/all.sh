#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# all.sh: every phase of `make test`, one after the other, with its time; what failed is shown where
# it failed and named again at the end. A phase that only builds or checks counts as one test.
# The last line is the sum "N passed, N failed, N skipped"; exit 1 if anything failed.
#
# JOBS, FUZZ_SECONDS, CUDA: as in the Makefile. PHASES: only these (words), for work on one of them.
set -u
cd "$(dirname "$0")/.." || exit 2
unset MAKEFLAGS MFLAGS MAKELEVEL
JOBS=${JOBS:-$(nproc)}
CUDA=${CUDA:-0}
export JOBS

logs=build/test
mkdir -p "$logs"
passed=0 failed=0 skipped=0
started=$(date +%s)
summary=()

wanted() { [ -z "${PHASES:-}" ] || [[ " $PHASES " == *" $1 "* ]]; }
run_make() { make --no-print-directory "-j$JOBS" "$@"; }

# add NAME SECONDS PASSED FAILED SKIPPED
add() {
    passed=$((passed + $3)) failed=$((failed + $4)) skipped=$((skipped + $5))
    summary+=("$(printf '%-14s %5d s %5d passed %3d failed %3d skipped' "$1" "$2" "$3" "$4" "$5")")
}

# phase NAME COMMAND…: one test, its output shown only if it fails.
phase() {
    local name=$1 t=$SECONDS
    shift
    wanted "$name" || return 0
    if "$@" >"$logs/$name.log" 2>&1 </dev/null; then
        add "$name" $((SECONDS - t)) 1 0 0
        echo "ok   $name ($((SECONDS - t)) s)"
    else
        add "$name" $((SECONDS - t)) 0 1 0
        echo "FAIL $name"
        tail -n 120 "$logs/$name.log" | sed 's/^/      | /'
    fi
}

# counted NAME COUNT_FILE COMMAND…: the command shows its own lines and leaves "passed failed skipped".
counted() {
    local name=$1 count=$2 t=$SECONDS rc p f s
    shift 2
    wanted "$name" || return 0
    rm -f "$count"
    "$@" </dev/null
    rc=$?
    if [ -f "$count" ]; then
        read -r p f s <"$count"
    else
        p=0 f=1 s=0
        echo "FAIL $name: ended before it counted anything"
    fi
    if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
        echo "FAIL $name: exit code $rc"
    fi
    add "$name" $((SECONDS - t)) "$p" "$f" "$s"
}

# skip NAME REASON
skip() {
    wanted "$1" || return 0
    add "$1" 0 0 0 1
    echo "skipped: $1: $2"
}

phase build-gcc run_make CUDA=0 CC=gcc CXX=g++ all lib tests
if [ "$CUDA" = 1 ]; then
    phase build-cuda run_make CUDA=1 all cuda-tests
else
    skip build-cuda "no nvcc here, the CUDA backend was not compiled"
fi
phase build-clang run_make FLAVOUR=clang CUDA=0 build/clang/pi0 tests
counted check "$logs/check-release.count" run_make "CUDA=$CUDA" check
if [ "$CUDA" = 1 ]; then
    counted cuda "$logs/check-cuda.count" run_make CUDA=1 cuda-check
    counted gpu "$logs/gpu.count" tests/gpu.sh
fi
# What follows needs no GPU code: without it each flavour builds in a minute instead of four.
counted clang "$logs/check-clang.count" run_make CUDA=0 clang-check
counted asan "$logs/check-asan.count" run_make CUDA=0 asan
counted tsan "$logs/check-tsan.count" run_make CUDA=0 tsan
counted fuzz "$logs/fuzz.count" run_make CUDA=0 fuzz
counted lint "$logs/lint.count" run_make "CUDA=$CUDA" lint
counted install "$logs/install.count" env "CUDA=$CUDA" tests/install.sh
phase demo run_make "CUDA=$CUDA" demo

echo
printf '%s\n' "${summary[@]}"
echo "total $(($(date +%s) - started)) s; logs in $logs/"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
