#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test_options.sh: help, version, and what is refused before anything is opened: unknown options and
# commands (with the nearest known one), numbers that are none, values out of range.
# shellcheck disable=SC2016,SC2054 # quoted scripts take their own arguments; commas belong to the values
# shellcheck source=tests/cli/checks.bash
. "$(dirname "$0")/checks.bash"

good "version" "$pi0" --version
holds "version's form" grep -Eqx 'pi0 [0-9]+\.[0-9]+\.[0-9]+' "$work/out"
good "help" "$pi0" --help
holds "help names every command" bash -c 'for c in run check inspect bench synth; do grep -q "^  $c " "$1" || exit 1; done' - "$work/out"
for command in run check inspect bench synth; do
    good "help $command" "$pi0" help "$command"
    cp "$work/out" "$work/page"
    good "$command --help" "$pi0" "$command" --help
    holds "both help pages of $command are one" cmp "$work/page" "$work/out"
    holds "help $command has examples" grep -q '^Examples' "$work/out"
    holds "help $command: no colour in a pipe" bash -c '! grep -q "$(printf "\033")" "$1"' - "$work/out"
    bad "$command: an option that is not known" "unknown option --jsn; did you mean --json" "$pi0" "$command" --jsn
    bad "$command: an option like no other" "unknown option --xyzzy-plugh" "$pi0" "$command" --xyzzy-plugh
    bad "$command: an unknown letter" "unknown option -Z" "$pi0" "$command" -Z
done
"$pi0" >"$work/out" 2>"$work/err"
holds "no command: exit code 2" [ $? -eq 2 ]
holds "no command: help on stderr" grep -q 'Commands' "$work/err"
bad "unknown command" 'unknown command "chek"; did you mean check' "$pi0" chek
bad "option before a command" "unknown option --json before a command" "$pi0" --json
bad "help of nothing known" 'unknown command "xxxxxxx"' "$pi0" help xxxxxxx

for command in run check inspect bench synth; do "$pi0" help "$command"; done | grep -Eo '^ +(-., )?--[a-z-]+' | grep -Eo -- '--[a-z-]+' | sort -u >"$work/options"
holds "help shows the options" [ "$(wc -l <"$work/options")" -gt 30 ]
sed 's/\\-/-/g' docs/pi0.1 >"$work/manual"
while read -r option; do
    [ "$option" = --help ] || holds "the manual has $option" grep -q -e "$option" "$work/manual"
done <"$work/options"

run=("$pi0" run --synthetic pi0_tiny)
for steps in 0 -1 1001 1.5 10x x "" " 5" +5 0x10 1e2 99999999999999999999 -99999999999999999999; do
    bad "--steps '$steps'" "--steps: found \"${steps//+/.}\", expected a whole number from 1 to 1000" "${run[@]}" --steps "$steps"
    bad "check --steps '$steps'" "--steps: found .* expected a whole number" "$pi0" check --case x --steps "$steps"
done
for threads in 0 -3 257 2.0; do
    bad "--threads $threads" "--threads: found .* from 1 to 256" "${run[@]}" --threads "$threads"
done
for seed in -1 1.0 18446744073709551616 abc ""; do
    bad "--seed '$seed'" "--seed: found .* whole number" "${run[@]}" --seed "$seed"
done
bad "--tolerance 0" "--tolerance: found \"0\", expected a number above 0" "$pi0" check --case x --tolerance 0
bad "--tolerance nan" "--tolerance: found \"nan\"" "$pi0" check --case x --tolerance nan
bad "--tolerance inf" "--tolerance: found \"inf\"" "$pi0" check --case x --tolerance inf
bad "--tolerance 1e-3z" "--tolerance: found \"1e-3z\"" "$pi0" check --case x --tolerance 1e-3z
bad "--backend tpu" "--backend: found \"tpu\", expected one of auto\|cpu\|cuda" "${run[@]}" --backend tpu
bad "--precision fp8" "--precision: found \"fp8\", expected one of bf16\|f32" "${run[@]}" --precision fp8
bad "--isa sse9" "\"sse9\" is not an instruction set" "${run[@]}" --isa avx2,sse9
bad "--masked-cameras" "found \"drop\", expected one of skip\|compute" "${run[@]}" --masked-cameras drop
bad "--robot" "--robot: found \"roomba\"" "${run[@]}" --robot roomba
bad "--synthetic" "--synthetic: found \"pi1\"" "$pi0" run --synthetic pi1
bad "--batch 0" "--batch: item 2 is \"0\"" "$pi0" bench tiny --batch 1,0
bad "--batch 1,,2" "--batch: item 2 is \"\"" "$pi0" bench tiny --batch 1,,2
bad "--n 0" "--n: found \"0\"" "$pi0" bench tiny --n 0
bad "a workload that is not known" 'workload "pi0-523" is unknown; did you mean pi0-532' "$pi0" bench pi0-523
bad "--tokens x" "--tokens: item 2 is \"x\"" "${run[@]}" --tokens 1,x
bad "--tokens -1" "--tokens: item 1 is \"-1\"" "${run[@]}" --tokens -1
bad "--tokens, too many" "--tokens: more than 4096" "${run[@]}" --tokens "$(seq -s, 4097)"
bad "a value is missing" "--steps: expected N behind it, found nothing" "${run[@]}" --steps
bad "an option in a value's place" "--prompt: expected TEXT, found the option --steps" "${run[@]}" --prompt --steps 3
bad "an option twice" "--steps is given twice" "${run[@]}" --steps 3 --steps 4
bad "a flag with a value" "--json takes no value" "${run[@]}" --json=yes
bad "a stray argument" 'unexpected argument "scene.png"' "${run[@]}" scene.png
bad "--image without a name" "expected NAME=FILE" "${run[@]}" --image scene.png
bad "--image without a file" "expected NAME=FILE" "${run[@]}" --image base_0_rgb=
bad "--image twice" "camera base_0_rgb is given twice" "${run[@]}" --image base_0_rgb=a --image base_0_rgb=b
bad "--image, long name" "camera name of 70 bytes" "${run[@]}" --image "$(printf '%070d' 0)=a"
bad "a prompt and ids" "exclude each other" "${run[@]}" --image base_0_rgb=assets/cam_high.jpg --prompt x --tokens 1
bad "no image" "no image: expected --image" "${run[@]}" --tokens 1
bad "no model" "no model: expected --model DIR or --synthetic" "$pi0" inspect
bad "two models" "--model and --synthetic exclude each other" "$pi0" inspect --model x --synthetic pi0_tiny
bad "a preset without a checkpoint" "--preset needs --model" "$pi0" inspect --synthetic pi0_tiny --preset pi0_libero
bad "nothing to check" "expected --case DIR, or --model DIR with --io" "$pi0" check
bad "a model without values" "--model needs --io" "$pi0" check --model x
bad "a case and a model" "excludes --model" "$pi0" check --case x --model y
bad "synth of nothing" "expected --dims" "$pi0" synth -o "$work/new"
bad "synth to nowhere" "expected -o DIR" "$pi0" synth --dims pi0_tiny
bad "--set of nothing known" "no such dimension; did you mean vlm_width" "$pi0" synth --dims pi0_tiny --set vlm_widht=3 -o "$work/new"
bad "--set of no number" "expected depth=N" "$pi0" synth --dims pi0_tiny --set depth=three -o "$work/new"
bad "--set that does not fit" "." "$pi0" synth --dims pi0_tiny --set image_size=57 -o "$work/new"
holds "refused synth makes no directory" [ ! -e "$work/new" ]
finish
