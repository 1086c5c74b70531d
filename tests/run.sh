#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh LABEL PROGRAM…: runs each test program, two or more at a time, and counts what it says.
#
# A program counts its own tests in one of two ways: cmocka programs as TAP (asked for here), all
# others in a last line "N passed, N failed, N skipped". A program that crashes, runs too long or
# counts nothing is one failure. What failed is shown in full, why something was skipped in its own
# words. Logs: build/test/LABEL/. The last line is the sum in the same form; exit 1 if any failed.
#
# JOBS: programs at a time (1). TEST_TIMEOUT: seconds a program may take (600).
# shellcheck disable=SC2094 # awk reads the log to its end before a note is appended to it
set -u
cd "$(dirname "$0")/.." || exit 2

# One program: its line to stdout, "passed failed skipped" to $log.count.
run_one() {
    local program=$1 log=$2 start end rc counts p f s word
    start=$(date +%s%N)
    CMOCKA_MESSAGE_OUTPUT=TAP timeout -k 10 "${TEST_TIMEOUT:-600}" "$program" >"$log" 2>&1 </dev/null
    rc=$?
    end=$(date +%s%N)
    counts=$(awk '
        /^1\.\.[0-9]+/ { split($0, a, /\.\./); planned += a[2]; tap = 1 }
        /^(not )?ok [0-9]+ # SKIP/ { s++; next }   # cmocka says "not ok" to a skip
        /^ok [0-9]+/ { p++ }
        /^not ok [0-9]+/ { f++ }
        /^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ { last = $1 " " $3 " " $5 }
        END {
            if (tap) {
                n = p + f + s
                if (n < planned) { f += planned - n; print "planned " planned ", ran " n > "/dev/stderr" }
                print p + 0, f + 0, s + 0
            } else if (last != "") print last
        }' "$log" 2>>"$log")
    word=ok
    if [ -z "$counts" ]; then
        echo "run.sh: no counts printed, exit code $rc" >>"$log"
        counts="0 1 0"
    fi
    read -r p f s <<<"$counts"
    if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then
        [ "$rc" -eq 124 ] && echo "run.sh: stopped after ${TEST_TIMEOUT:-600} s" >>"$log"
        echo "run.sh: exit code $rc, although no test failed" >>"$log"
        f=1
    fi
    if [ $((p + f + s)) -eq 0 ]; then
        echo "run.sh: the program counted no test" >>"$log"
        f=1
    fi
    [ "$f" -gt 0 ] && word=FAIL
    printf '%s %s %s\n' "$p" "$f" "$s" >"$log.count"
    { # one program's lines stay together
        flock 9
        printf '  %-4s %-40s %5d passed %3d failed %3d skipped %7.1f s\n' "$word" "${program#build/*/tests/}" \
            "$p" "$f" "$s" "$(awk "BEGIN { print ($end - $start) / 1e9 }")"
        if [ "$f" -gt 0 ]; then
            sed 's/^/      | /' "$log"
        elif [ "$s" -gt 0 ]; then
            grep -ai 'skipped:' "$log" | sort | uniq -c | sed 's/^ *\([0-9]*\) /      \1 × /'
        fi
    } 9>"${log%/*}/.lock"
}

if [ "${1:-}" = --one ]; then
    run_one "$2" "$3"
    exit 0
fi

label=${1:?label}
shift
logs=build/test/$label
rm -rf "$logs"
mkdir -p "$logs"
echo "$label: $# programs"
for program in "$@"; do
    name=${program#build/*/tests/}
    name=${name#tests/}
    printf '%s\0%s\0' "$program" "$logs/${name//\//_}.log"
done | xargs -0 -r -n 2 -P "${JOBS:-1}" tests/run.sh --one

passed=0 failed=0 skipped=0
for program in "$@"; do
    name=${program#build/*/tests/}
    name=${name#tests/}
    count=$logs/${name//\//_}.log.count
    if [ -f "$count" ]; then
        read -r p f s <"$count"
    else
        p=0 f=1 s=0
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed $failed $skipped" >"$logs.count"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
