#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# setup.sh [build|test]: installs the Debian packages that a build (default) or the tests need, if
# some are missing, and says which. Nothing is fetched when nothing is missing.
set -u

build_packages="gcc g++ make pkg-config libjansson-dev libsentencepiece-dev libjpeg62-turbo-dev libpng-dev"
test_packages="git libcmocka-dev clang libclang-rt-dev clang-format clang-tidy cppcheck shellcheck man-db"

wanted=$build_packages
case "${1:-build}" in
build) ;;
test) wanted="$wanted $test_packages" ;;
*)
    echo "usage: tools/setup.sh [build|test]" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    lacking=
    for tool in gcc g++ make pkg-config; do
        command -v "$tool" >/dev/null || lacking="$lacking $tool"
    done
    for module in jansson sentencepiece libjpeg libpng; do
        pkg-config --exists "$module" 2>/dev/null || lacking="$lacking $module"
    done
    [ -z "$lacking" ] && exit 0
    echo "setup: this is not a Debian system; install these yourself:$lacking" >&2
    exit 1
fi

# A package counts as there if it, or one that provides it, is installed (pkgconf for pkg-config).
is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] && return 0
    dpkg-query -W -f '${db:Status-Status} ${Provides}\n' 2>/dev/null |
        grep -Eq "^installed .*(^|[ ,])$1([ ,]|$)"
}

missing=
for package in $wanted; do
    is_installed "$package" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
missing=${missing# }

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null; then
        as_root="sudo"
    else
        echo "setup: missing packages: $missing" >&2
        echo "setup: run as root: apt-get install --no-install-recommends $missing" >&2
        exit 1
    fi
fi

echo "setup: installing $missing"
log=$(mktemp)
apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >>"$log" 2>&1 </dev/null; }
# shellcheck disable=SC2086 # a list of names
if apt update && apt install --yes --no-install-recommends $missing; then
    rm -f "$log"
    echo "setup: done"
else
    tail -20 "$log" >&2
    rm -f "$log"
    echo "setup: apt-get could not install: $missing" >&2
    exit 1
fi
