# SPDX-License-Identifier: Apache-2.0
# checks.bash: what the tests of the command share: a work folder, a tiny checkpoint, and checks
# that count. Sourced; ends with `finish`. PI0 names the command (default build/pi0).
# shellcheck shell=bash disable=SC2034
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
case ${PI0:-build/pi0} in
/*) pi0=${PI0} ;;
*) pi0=$PWD/${PI0:-build/pi0} ;;
esac
repo=$PWD
mkdir -p build/test
work=$(mktemp -d "$PWD/build/test/cli.XXXXXX") || exit 2
trap 'chmod -R u+rwx "$work" 2>/dev/null; rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
export LC_ALL=C.UTF-8
unset NO_COLOR

ok() { passed=$((passed + 1)); }
no() {
    failed=$((failed + 1))
    echo "FAIL $1"
    shift
    printf '     %s\n' "$@"
}
skip() {
    skipped=$((skipped + 1))
    echo "skipped: $1: $2"
}

# good NAME COMMAND…: exit code 0. stdout lies in $work/out, stderr in $work/err.
good() {
    local name=$1 rc
    shift
    "$@" >"$work/out" 2>"$work/err" </dev/null
    rc=$?
    if [ $rc -eq 0 ]; then ok; else no "$name" "exit code $rc, expected 0" "$(head -c 500 "$work/err")"; fi
}

# bad NAME PATTERN COMMAND…: exit code 2, one line "pi0: …" on stderr in which PATTERN (extended,
# any case) is found, nothing on stdout.
bad() {
    local name=$1 pattern=$2 rc
    shift 2
    timeout -k 5 120 "$@" >"$work/out" 2>"$work/err" </dev/null
    rc=$?
    if [ $rc -ne 2 ]; then
        no "$name" "exit code $rc, expected 2" "$(head -c 2000 "$work/err")"
    elif [ -s "$work/out" ]; then
        no "$name" "on stdout: $(head -c 200 "$work/out")"
    elif [ "$(wc -l <"$work/err")" -ne 1 ] || ! grep -q '^pi0: ' "$work/err"; then
        no "$name" "expected one line \"pi0: …\" on stderr, found: $(head -c 500 "$work/err")"
    elif ! grep -Eqi -- "$pattern" "$work/err"; then
        no "$name" "expected /$pattern/ in: $(cat "$work/err")"
    else
        ok
    fi
}

# holds NAME COMMAND…: the command's exit code is 0.
holds() {
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then ok; else no "$name" "$*" "$(head -c 500 "$work/log")"; fi
}

# empty NAME DIR: nothing lies in DIR.
empty() {
    if [ -z "$(ls -A "$2" 2>/dev/null)" ]; then ok; else no "$1" "left behind: $(ls -A "$2")"; fi
}

# le64 N: N as 8 bytes, least first.
le64() {
    local n=$1 i
    for ((i = 0; i < 8; i++)); do
        # shellcheck disable=SC2059 # the escape is the point
        printf "\\x$(printf %02x $(((n >> (8 * i)) & 255)))"
    done
}

# safetensors FILE HEADER N_BYTES: a file with this JSON header and N_BYTES of zeros behind it.
safetensors() {
    { le64 ${#2}; printf %s "$2"; head -c "$3" /dev/zero; } >"$1"
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
}
