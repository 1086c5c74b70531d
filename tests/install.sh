#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# install.sh: `make install` into an empty tree, then what a stranger does with it: pkg-config, a
# program against the shared and against the static library, the command, the manual page.
# CUDA: 1 for a build with it (default 0).
# The last line is "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.." || exit 2
unset MAKEFLAGS MFLAGS MAKELEVEL
CC=${CC:-gcc}
CXX=${CXX:-g++}
work=$PWD/build/test/install
tree=$work/tree
prefix=/opt/pi0
passed=0 failed=0
rm -rf "$work"
mkdir -p "$work"

check() {
    local name=$1 log
    log=$work/${name//[^a-z0-9]/_}.log
    shift
    if "$@" >"$log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        echo "  ok   install: $name"
    else
        failed=$((failed + 1))
        echo "  FAIL install: $name"
        sed 's/^/      | /' "$log"
    fi
}

install_tree() { make --no-print-directory CUDA="${CUDA:-0}" install DESTDIR="$tree" PREFIX=$prefix; }

expected_files() {
    local version major
    version=$(pkg-config --modversion pi0) || return 1
    major=${version%%.*}
    diff <(cd "$tree$prefix" && find . ! -type d | sort) <(sort <<END
./bin/pi0
./include/pi0.h
./lib/libpi0.a
./lib/libpi0.so
./lib/libpi0.so.$major
./lib/libpi0.so.$version
./lib/pkgconfig/pi0.pc
./share/man/man1/pi0.1
END
    )
}

# Names a library defines for others: all begin with pi0_, and all that pi0.h declares are there.
declared() {
    sed -e 's|/\*.*\*/||' include/pi0.h | grep -v '^#' | tr '\n' ' ' |
        grep -oE 'PI0_API [^;(]*\(' | grep -oE 'pi0_[a-z0-9_]+ *\($' | tr -d ' (' | sort -u
}
only_pi0_names() {
    local names
    names=$(nm "$@" --defined-only --extern-only -P | awk 'NF > 1 { print $1 }' | sort -u)
    if grep -v '^pi0_' <<<"$names"; then
        echo "^ not ours to export"
        return 1
    fi
    if comm -23 <(declared) <(echo "$names") | grep .; then
        echo "^ declared in pi0.h and not defined"
        return 1
    fi
}
exactly_the_header() {
    diff <(declared) <(nm -D --defined-only -P "$tree$prefix/lib/libpi0.so" | awk '{ print $1 }' | sort -u)
}
soname() { readelf -d "$tree$prefix/lib/libpi0.so" | grep -q 'SONAME.*\[libpi0\.so\.[0-9]*\]'; }

header_alone() {
    echo '#include <pi0.h>' >"$work/alone.c"
    cp "$work/alone.c" "$work/alone.cc"
    # shellcheck disable=SC2046 # flags
    "$CC" -std=c11 -pedantic -Wall -Wextra -Werror $(pkg-config --cflags pi0) -c -o "$work/alone.o" "$work/alone.c" &&
        "$CXX" -std=c++11 -pedantic -Wall -Wextra -Werror $(pkg-config --cflags pi0) -c -o "$work/alone.o" "$work/alone.cc"
}

# shellcheck disable=SC2046 # flags
build_shared() {
    "$CC" -std=c11 -O2 -Wall -Wextra -Werror -o "$work/embed_shared" examples/embed.c $(pkg-config --cflags --libs pi0) -lm &&
        readelf -d "$work/embed_shared" | grep -q 'NEEDED.*libpi0'
}
# shellcheck disable=SC2046 # flags
build_static() {
    "$CC" -std=c11 -O2 -Wall -Wextra -Werror -o "$work/embed_static" examples/embed.c $(pkg-config --cflags pi0) \
        -Wl,--as-needed $(pkg-config --static --libs pi0 | sed 's/-lpi0\>/-l:libpi0.a/') -lm &&
        ! readelf -d "$work/embed_static" | grep -q 'NEEDED.*libpi0'
}
run_embed() { LD_LIBRARY_PATH=$tree$prefix/lib "$work/$1" "$work/model" && LD_LIBRARY_PATH=$tree$prefix/lib "$work/$1" "$work/model" | grep -q '[0-9]'; }
same_actions() {
    cmp <(LD_LIBRARY_PATH=$tree$prefix/lib "$work/embed_shared" "$work/model") <("$work/embed_static" "$work/model")
}
command_version() { "$tree$prefix/bin/pi0" --version | grep -qF "$(pkg-config --modversion pi0)"; }
manual() { [ -z "$(MANWIDTH=100 man --warnings -l "$tree$prefix/share/man/man1/pi0.1" 2>&1 >/dev/null)" ]; }
uninstall_tree() {
    make --no-print-directory CUDA="${CUDA:-0}" uninstall DESTDIR="$tree" PREFIX=$prefix
    [ -z "$(find "$tree" ! -type d)" ]
}

export PKG_CONFIG_PATH=$tree$prefix/lib/pkgconfig
check "make install" install_tree
# The file names where the tree will stand; here it stands under DESTDIR.
sed -i "s|^prefix=.*|prefix=$tree$prefix|" "$PKG_CONFIG_PATH/pi0.pc"
check "the files are those expected" expected_files
check "shared library: only pi0_ names" only_pi0_names -D "$tree$prefix/lib/libpi0.so"
check "shared library: exactly what pi0.h declares" exactly_the_header
check "shared library: soname" soname
check "static library: only pi0_ names" only_pi0_names "$tree$prefix/lib/libpi0.a"
check "pi0.h compiles alone, C and C++" header_alone
check "embed.c builds, shared" build_shared
check "embed.c builds, static" build_static
check "a model to embed" "$tree$prefix/bin/pi0" synth --dims pi0_tiny --seed 1 -o "$work/model"
check "embed.c runs, shared" run_embed embed_shared
check "embed.c runs, static" run_embed embed_static
check "both give the same actions" same_actions
check "the command knows its version" command_version
check "the manual page is well-formed" manual
check "make uninstall leaves no file" uninstall_tree

echo "$passed $failed 0" >build/test/install.count
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
