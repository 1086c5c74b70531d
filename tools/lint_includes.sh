#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lint_includes.sh: includes point down only.
#   base < io < model < ref < backend < engine (files right in src/) < policy < serve < cli
# cli/ sees pi0.h and its own headers, and nothing else of ours; pi0.h includes none of our headers;
# the two backends do not see each other.
set -u
cd "$(dirname "$0")/.." || exit 2
[ -n "$(git ls-files include/pi0.h)" ] || { echo "git lists no files here"; exit 2; }
files=$(git ls-files --cached --others --exclude-standard -- 'include/*.h' 'src/*.[ch]' 'src/*.cc' 'src/*.cu' 'src/*.cuh' 'cli/*.[ch]')
# shellcheck disable=SC2086 # names of ours, without spaces
awk '
    function layer(path,   part) {
        if (path ~ /^pi0\.h$/) return 0
        if (path ~ /^cli\//) return 9
        split(path, part, "/")
        if (path !~ /\//) return 6
        return (part[1] in rank) ? rank[part[1]] : -1
    }
    BEGIN { split("base io model ref backend engine policy serve", names, " "); for (i in names) rank[names[i]] = i }
    /^[ \t]*#[ \t]*include[ \t]*"/ {
        match($0, /"[^"]*"/)
        inc = substr($0, RSTART + 1, RLENGTH - 2)
        own = FILENAME
        sub(/^src\//, "", own)
        dir = own
        if (!sub(/\/[^\/]*$/, "/", dir)) dir = ""
        target = inc
        if (inc !~ /\// && inc != "pi0.h" && dir != "") target = dir inc     # beside the file
        why = ""
        if (FILENAME ~ /^include\//) why = "the public header includes none of ours"
        else if (inc ~ /\.\./) why = "no path upwards"
        else if (own ~ /^cli\// && target != "pi0.h" && target !~ /^cli\//) why = "cli sees only pi0.h"
        else if (layer(target) < 0) why = "a folder without a place in the order"
        else if (layer(target) > layer(own)) why = "points up"
        else if (own ~ /^backend\/cpu\// && target ~ /^backend\/cuda\//) why = "the backends do not see each other"
        else if (own ~ /^backend\/cuda\// && target ~ /^backend\/cpu\//) why = "the backends do not see each other"
        if (why != "") { printf "%s:%d: \"%s\": %s\n", FILENAME, FNR, inc, why; bad = 1 }
    }
    END { exit bad }' $files
