#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test_report.sh: `pi0 bench --report` over the small network on the CPU: every section is there, the
# JSON fits its schema, the pictures are XML, and --compare reads what was written. No time is judged.
# shellcheck disable=SC2016 # quoted scripts take their own arguments
# shellcheck source=tests/cli/checks.bash
. "$(dirname "$0")/checks.bash"

study=("$pi0" bench tiny --backend cpu --threads 1 --n 3 --blocks 2 --warmup 1 --load-seconds 0.05)
dir=$work/study
good "bench --report" "${study[@]}" --batch 1,2,128 --report "$dir"
holds "says where it is" grep -qx "$dir/report.md" "$work/out"
holds "nothing on stderr" [ ! -s "$work/err" ]
for name in report.json report.md stages.svg batch.svg power.svg load.svg ladder.svg breakdown.svg roofline.svg; do
    holds "$name is there" [ -s "$dir/$name" ]
done
holds "nothing else is there" [ "$(find "$dir" -type f | wc -l)" -eq 9 ]
for section in Headline Batch "Power and offered load" Ladder Breakdown; do
    holds "report.md: $section" grep -qx "## $section" "$dir/report.md"
done
for stage in vision prefix denoise; do
    holds "report.md: $stage with its floor" grep -Eq "^\| tiny \| $stage \| [0-9.]+ \| [0-9.]+ \|.*\| (memory|arithmetic) \| [0-9]+ \|$" "$dir/report.md"
done
holds "report.md: batch 128" grep -Eq '^\| 128 \| [0-9.]+ \|' "$dir/report.md"
holds "report.md: 10 Hz and back to back" bash -c 'grep -q "^| 10 |" "$1" && grep -q "^| back to back |" "$1"' - "$dir/report.md"
holds "report.md: a rung within tolerance" grep -Eq '^\| folded tables \| [0-9.]+ \| [+-][0-9.]+ \| [0-9.]+× \| [0-9.e-]+ \| within tolerance, pi0_tiny \|$' "$dir/report.md"
holds "report.md: no rung fails" bash -c '! grep -q FAILED "$1"' - "$dir/report.md"
holds "report.md: what the CPU has not is not measured" grep -Eq '^\| graph replay \|.*not measured: the cpu backend' "$dir/report.md"

if command -v python3 >/dev/null; then
    holds "report.json fits the schema" python3 tools/validate_json.py bench/report.schema.json "$dir/report.json"
    sed 's/"pi0-report"/"other"/' "$dir/report.json" >"$work/wrong.json"
    holds "the validator finds a wrong value" bash -c '! python3 tools/validate_json.py bench/report.schema.json "$1"' - "$work/wrong.json"
    sed '/"spread_percent"/d' "$dir/report.json" >"$work/less.json"
    holds "the validator finds a missing key" bash -c '! python3 tools/validate_json.py bench/report.schema.json "$1"' - "$work/less.json"
    for svg in "$dir"/*.svg; do
        holds "${svg##*/} is XML" python3 -c 'import sys, xml.dom.minidom as x; assert x.parse(sys.argv[1]).documentElement.tagName == "svg"' "$svg"
    done
else
    skip "report.json and SVG" "python3 is not there"
fi

# One section, the others say so; the report is replaced; a batch past memory is a row, not an end.
good "--sections headline" "${study[@]}" --sections headline --report "$dir" --json
holds "--json prints the report" cmp <(tr -d ' \n' <"$work/out") <(tr -d ' \n' <"$dir/report.json")
holds "what was not asked for says so" [ "$(grep -c 'not asked for' "$dir/report.json")" -eq 4 ]
good "ceilings that are given" "${study[@]}" --sections headline --peak-flops 1e12 --peak-bytes 1e11 --report "$work/given"
holds "are in the report" grep -q '"flops_per_s": 1000000000000.0' "$work/given/report.json"
good "π0.5" "$pi0" bench tiny --synthetic pi05_tiny --backend cpu --threads 1 --n 2 --blocks 1 --sections headline,ladder,breakdown --case tests/golden/pi05_tiny --report "$work/pi05"
holds "π0.5 has no state token" grep -q 'π0.5 has no state token' "$work/pi05/report.md"
holds "π0.5: no rung fails" bash -c '! grep -q FAILED "$1" && grep -q "within tolerance, pi05_tiny" "$1"' - "$work/pi05/report.md"
good "no golden case" "${study[@]}" --sections ladder --case "$work/none" --report "$work/unchecked"
holds "a rung without its case says so" grep -q 'not checked: ' "$work/unchecked/report.md"

good "--compare" "$pi0" bench --compare "$dir/report.json" "$work/given/report.json"
holds "--compare: files and ratios" bash -c 'grep -q "^| A | .*study/report.json" "$1" && grep -Eq "^\| tiny \|( [0-9.]+ \|){9}$" "$1"' - "$work/out"
good "--compare with itself" "$pi0" bench --compare "$dir/report.json" "$dir/report.json" --report "$work/pair"
holds "--compare: ratios of 1" grep -Eq '^\| tiny \| [0-9.]+ \| [0-9.]+ \| 1\.000 \|' "$work/pair/compare.md"

echo '{"format":"pi0-report"}' >"$work/noversion.json"
echo '{' >"$work/cut.json"
printf '{"format":"pi0-report","version":1,"headline":[1,{"workload":[],"stages":7},null],"batch":{"rows":{"a":1}},"power":3,"ladder":{"rows":[[],{"name":5}]},"breakdown":[]}' >"$work/odd.json"
bad "--compare: one file" "expected two files" "$pi0" bench --compare "$dir/report.json"
bad "--compare: no such file" "none.json: cannot be opened" "$pi0" bench --compare "$work/none.json" "$dir/report.json"
bad "--compare: not JSON" "cut.json: line [0-9]" "$pi0" bench --compare "$work/cut.json" "$dir/report.json"
bad "--compare: another kind of file" 'expected "format": "pi0-report", "version": 1' "$pi0" bench --compare "$dir/report.json" "$work/noversion.json"
good "--compare: values of other types are not there" "$pi0" bench --compare "$work/odd.json" "$dir/report.json"
bad "--sections of nothing known" '--sections: found "heads"' "${study[@]}" --sections heads --report "$work/x"
bad "--report over a file" "is not a folder" "${study[@]}" --report "$dir/report.md"
bad "--report in no folder" "cannot be made" "${study[@]}" --report "$work/none/study"
bad "--blocks 33" "from 1 to 32" "$pi0" bench tiny --blocks 33 --report "$work/x"
finish
