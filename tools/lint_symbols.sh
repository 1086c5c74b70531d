#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# lint_symbols.sh ARCHIVE: the library as compiled keeps no mutable globals and calls nothing that
# prints, ends the process or reads the environment. (`assert` may end it: a broken invariant of ours.)
# Objects of .cu files are left out: nvcc's own registration code does both.
set -u
archive=${1:?archive}
# Section .data.rel.ro is constant once loaded; guard variables and type names come with C++.
objdump -t "$archive" | awk '
    /file format/ { member = $1; sub(/:$/, "", member); next }
    member ~ /\.cu\.o$/ { next }
    $NF ~ /^(\.|_ZT|_ZGV|DW\.)/ { next }
    / O / && / (\.data|\.bss|\.tdata|\.tbss|\*COM\*)/ && !/\.data\.rel\.ro/ && !/\.rodata/ {
        print member ": mutable global " $NF; bad = 1
    }
    / \*UND\*/ && $NF ~ /^(printf|vprintf|puts|putchar|stdout|stderr|perror|exit|_exit|quick_exit|abort|getenv|secure_getenv|setenv|system|popen|rand|srand|strtok|__printf_chk)$/ {
        print member ": calls " $NF; bad = 1
    }
    END { exit bad }'
