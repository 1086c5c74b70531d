#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# gpu.sh: what only a machine with an NVIDIA GPU can say about build/pi0: every golden case (full
# size included), the same bits twice, GPU against CPU through the whole policy, errors, and
# compute-sanitizer on the tiny cases. Without a GPU everything is skipped, in words.
# The last line is "N passed, N failed, N skipped".
# shellcheck disable=SC2317 # functions are reached through check
set -u
cd "$(dirname "$0")/.." || exit 2
pi0=${PI0:-build/pi0}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

check() {
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        echo "  ok   gpu: $name"
    else
        failed=$((failed + 1))
        echo "  FAIL gpu: $name"
        sed 's/^/      | /' "$work/log"
    fi
}
skip() {
    skipped=$((skipped + 1))
    echo "  skipped: gpu: $1: $2"
}
done_() {
    mkdir -p build/test
    echo "$passed $failed $skipped" >build/test/gpu.count
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
    exit
}
# Exit code 2, one line that matches PATTERN.
refused() {
    local pattern=$1
    shift
    "$@" >"$work/out" 2>"$work/err" </dev/null
    local rc=$?
    cat "$work/err"
    [ "$rc" -eq 2 ] && grep -qiE "$pattern" "$work/err"
}

"$pi0" synth --quiet --dims pi0_tiny --seed 3 -o "$work/tiny" >/dev/null || exit 2
image=assets/cam_right_wrist.png
run() {
    "$pi0" run --quiet --model "$work/tiny" --no-stats --image base_0_rgb=$image --image left_wrist_0_rgb=$image \
        --state 0.1,-0.2,0.3 --tokens 2,17,35,4 --seed 5 "$@"
}

if ! run --backend cuda >"$work/log" 2>&1; then
    why=$(tail -n 1 "$work/log")
    check "a machine without a GPU says so" refused '(driver|gpu|cuda)' run --backend cuda
    check "auto takes the CPU there" run --backend auto
    skip "golden cases, bits, policy, errors, sanitizers" "${why:-no GPU}"
    done_
fi

for case in tests/golden/pi0_tiny tests/golden/pi05_tiny tests/golden/pi0_tiny_3cam tests/golden/pi0_h10 \
    tests/golden/pi0_full tests/golden/pi05_full; do
    check "$(basename $case)" "$pi0" check --case $case --backend cuda
done

twice() { run --backend cuda -o "$work/a.npy" && run --backend cuda -o "$work/b.npy" && cmp "$work/a.npy" "$work/b.npy"; }
check "the same bits twice" twice
like_the_cpu() {
    run --backend cuda -o "$work/gpu.csv" && run --backend cpu --precision f32 -o "$work/cpu.csv" &&
        paste -d, "$work/gpu.csv" "$work/cpu.csv" | awk -F, '
            /^[-0-9]/ { for (i = 1; i <= NF / 2; i++) { d = $i - $(i + NF / 2); n += d * d; r += $(i + NF / 2) ^ 2 } }
            END { e = sqrt(n / r); print "relative L2", e; exit !(r > 0 && e <= 1e-2) }'
}
check "the policy's actions are the CPU's" like_the_cpu
check "float32 is refused" refused 'f32|float32|precision' run --backend cuda --precision f32
check "a device that is not there" refused 'device' run --backend cuda --device 60
check "a batch past what a grid takes" refused 'too many' "$pi0" bench --quiet pi0-799-h50 --backend cuda --batch 1024 --horizon 1024 --n 1 --warmup 0
check "works after these" run --backend cuda
# Every switch of the ladder, at full size on the kernels for this card; a rung past its bound says FAILED.
ladder() { "$pi0" bench --quiet "$@" --backend cuda --sections ladder --blocks 1 --n 2 --warmup 1 --report "$work/ladder" && grep -c 'within tolerance' "$work/ladder/report.md" && ! grep FAILED "$work/ladder/report.md"; }
check "the ladder's rungs, π0" ladder pi0-532 --case tests/golden/pi0_h10
check "the ladder's rungs, π0.5" ladder pi05-968-h50 --case tests/golden/pi05_full
check "attention that is not fused, small networks" ladder tiny --case tests/golden/pi0_tiny
check "kernels one by one" "$pi0" bench --quiet pi0-532,pi05-968-h50 --kernels --backend cuda
check "kernels one by one, a batch" "$pi0" bench --quiet pi0-532 --kernels --batch 3 --backend cuda

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck; do
        for case in pi0_tiny pi05_tiny; do
            check "$tool $case" compute-sanitizer --tool $tool --error-exitcode 9 "$pi0" check --case tests/golden/$case --backend cuda
        done
        [ $tool = racecheck ] || check "$tool, the ladder's rungs" compute-sanitizer --tool $tool --error-exitcode 9 "$pi0" bench --quiet tiny --backend cuda --sections ladder --blocks 1 --n 1 --warmup 1 --report "$work/ladder"
    done
else
    skip "memcheck, racecheck, initcheck" "compute-sanitizer is not installed"
fi
done_
