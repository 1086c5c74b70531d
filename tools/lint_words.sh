#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lint_words.sh: what has no place in the tree, by text alone.
set -u
cd "$(dirname "$0")/.." || exit 2
[ -n "$(git ls-files include/pi0.h)" ] || { echo "git lists no files here"; exit 2; }
bad=0
list() { git ls-files --cached --others --exclude-standard -- "$@"; }

# forbid WHY REGEX PATHSPEC…: extended regex, case as written.
forbid() {
    local why=$1 regex=$2 hits
    shift 2
    hits=$(list "$@" | grep -v '^tools/lint_words.sh$' | xargs -r grep -nIE -- "$regex" /dev/null)
    [ -z "$hits" ] && return
    printf '%s\n' "$hits" | sed "s|\$|    <- $why|"
    bad=1
}

text=('*.c' '*.h' '*.cc' '*.cu' '*.cuh' '*.sh' '*.mk' '*.py' '*.md' 'Makefile' '.ci/run' 'docs/*')
lib=('src/*.c' 'src/*.h' 'src/*.cc')

forbid 'a TODO needs an issue number' '\b(TODO|FIXME|XXX|HACK)\b([^(]|$|\([^#])' "${text[@]}"
forbid 'a path of one machine' '(^|[^A-Za-z0-9_.])/(home|root|work|workspace)/' "${text[@]}"
forbid 'no adjectives that fit any project' \
    '\b([Bb]lazing|[Ss]eamless(ly)?|[Cc]utting[- ]edge|[Ss]tate[- ]of[- ]the[- ]art|[Pp]owerful|[Ee]legant(ly)?|[Rr]obust(ly)?|[Ee]ffortless(ly)?|[Bb]lazingly|[Ww]orld[- ]class|[Nn]ext[- ]generation)\b' \
    "${text[@]}"
forbid 'a compiler option that changes results or ties a build to one machine' \
    '(-march=native|-ffast-math|-Ofast|-funsafe-math)' Makefile '*.mk'
forbid 'the library neither prints, ends the process nor reads the environment' \
    '(^|[^A-Za-z0-9_>.])(printf|vprintf|puts|putchar|perror|exit|_exit|abort|getenv|secure_getenv|setenv|system|popen)[ ]*\(|[^A-Za-z0-9_](stdout|stderr)[^A-Za-z0-9_]' \
    "${lib[@]}"
forbid 'a function without a length' \
    '(^|[^A-Za-z0-9_>.])(gets|strcpy|strcat|sprintf|vsprintf|strtok|alloca|atoi|atol|atof|rand|srand)[ ]*\(' \
    "${lib[@]}" 'cli/*.c' 'cli/*.h'
forbid 'PI0_CUDA belongs into src/backend/backend.{c,h}' '(defined\(|ifn?def +)PI0_CUDA([^_A-Z0-9]|$)' \
    'src/*.c' 'src/*.h' 'cli/*' ':!src/backend/backend.c' ':!src/backend/backend.h'
forbid 'trailing blanks' '[ 	]+$' "${text[@]}"
forbid 'tabs are for Makefiles' '	' '*.c' '*.h' '*.cc' '*.cu' '*.cuh'

# Names of files and folders.
list | grep -E '(^|/)(utils?|common|misc|helpers?)(\.|/|$)' | sed 's|$|    <- says nothing about what is inside|' | grep . && bad=1

# The first lines: licence, and what the file owns.
while read -r file; do
    head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' ||
        { echo "$file:1:    <- no SPDX line"; bad=1; }
done < <(list '*.c' '*.h' '*.cc' '*.cu' '*.cuh' '*.sh' '*.py' '.ci/run')

# Length. A file that must be long says why in its first 30 lines: "Long because …".
while read -r file; do
    lines=$(wc -l <"$file")
    if [ "$lines" -gt 800 ] && ! head -n 30 "$file" | grep -q 'Long because'; then
        echo "$file:$lines:    <- over 800 lines"
        bad=1
    fi
done < <(list '*.c' '*.h' '*.cc' '*.cu' '*.cuh')
exit $bad
