#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test_run.sh: what the commands print and write when all is well: the three forms of -o agree, JSON
# has its promised keys, the same seed gives the same bits, check judges, bench appends.
# shellcheck disable=SC2016,SC2054 # quoted scripts take their own arguments; commas belong to the values
# shellcheck source=tests/cli/checks.bash
. "$(dirname "$0")/checks.bash"

tiny=$work/tiny
good "synth" "$pi0" synth --dims pi0_tiny --seed 1 -o "$tiny"
good "synth --json" "$pi0" synth --dims pi0_tiny --seed 1 --json -o "$work/twin"
holds "synth --json: its keys" grep -Eq '^\{"dir":.*"variant":"pi0".*"seed":1,.*"file_bytes":[0-9]+' "$work/out"
holds "the same seed, the same file" cmp "$tiny/model.safetensors" "$work/twin/model.safetensors"
good "synth --force" "$pi0" synth --dims pi0_tiny --seed 2 --force -o "$work/twin"
holds "another seed, another file" bash -c '! cmp -s "$1" "$2"' - "$tiny/model.safetensors" "$work/twin/model.safetensors"
good "synth --case" "$pi0" synth --case tests/golden/pi0_tiny -o "$work/case"
good "synth --set" "$pi0" synth --dims pi05_tiny --set depth=2 --set vocab_size=99 -o "$work/set"
good "inspect of what --set made" "$pi0" inspect --model "$work/set" --json
holds "inspect: the dimensions that were set" bash -c 'grep -Eq "\"depth\": 2," "$1" && grep -Eq "\"vocab_size\": 99," "$1" && grep -q "\"variant\": \"pi05\"" "$1"' - "$work/out"
holds "inspect --json: plan and kernels" bash -c 'grep -q "\"kernels\": \[" "$1" && grep -q "\"weight_bytes\"" "$1"' - "$work/out"
good "inspect --no-engine" "$pi0" inspect --synthetic pi0 --no-engine
holds "inspect: the real π0 has 3.2 G parameters" grep -Eq '^  all +3[0-9]{9}$' "$work/out"

run=("$pi0" run --model "$tiny" --no-stats --image "base_0_rgb=assets/cam_high.jpg" --image "right_wrist_0_rgb=assets/cam_right_wrist.png" --state 0.1,-0.2 --tokens 2,17,4)
good "run, plain" "${run[@]}"
holds "run: 6 rows of 8 numbers" bash -c '[ "$(grep -Ec "^ +[0-9]+( +-?[0-9.]+){8}$" "$1")" -eq 6 ]' - "$work/out"
holds "run: no colour, no bars in a pipe" bash -c '! grep -q "$(printf "\033")" "$1" "$2" && ! grep -q "█" "$1" && [ ! -s "$2" ]' - "$work/out" "$work/err"
good "run --json" "${run[@]}" --json
holds "run --json: one line" bash -c '[ "$(wc -l <"$1")" -eq 1 ]' - "$work/out"
holds "run --json: its keys" grep -Eq '"horizon":6,"action_dim":8,"steps":10,"seed":0,"n_tokens":3,"timing_ms":\{"preprocess":.*"actions":\[\[' "$work/out"

for form in json csv npy; do
    good "run -o .$form" "${run[@]}" --seed 5 -o "$work/a.$form"
    good "run -o .$form again, one thread" "${run[@]}" --seed 5 --threads 1 --quiet -o "$work/b.$form"
    holds "quiet says nothing on stderr" [ ! -s "$work/err" ]
done
holds ".csv: the same bits again" cmp "$work/a.csv" "$work/b.csv"
holds ".npy: the same bits again" cmp "$work/a.npy" "$work/b.npy"
holds ".npy: 128 bytes of header, 48 float64" [ "$(stat -c %s "$work/a.npy")" -eq $((128 + 48 * 8)) ]
holds ".npy: shape and type" grep -aq "'descr': '<f8', 'fortran_order': False, 'shape': (6, 8)" "$work/a.npy"
holds ".csv: 6 rows of 8" [ "$(awk -F, 'NF == 8' "$work/a.csv" | wc -l)" -eq 6 ]
# The three forms hold the same numbers: .csv and .json as text of 17 digits, .npy as bytes.
tr ',' '\n' <"$work/a.csv" | awk '{ printf "%.15e\n", $1 }' >"$work/csv.txt"
tr -d ' \n' <"$work/a.json" | sed 's/.*"actions":\[\[//; s/\]\].*//; s/\],\[/,/g' | tr ',' '\n' | awk '{ printf "%.15e\n", $1 }' >"$work/json.txt"
tail -c +129 "$work/a.npy" | od -An -v -tf8 -w8 | awk '{ printf "%.15e\n", $1 }' >"$work/npy.txt"
holds ".json and .csv agree" cmp "$work/json.txt" "$work/csv.txt"
holds ".npy and .csv agree" cmp "$work/npy.txt" "$work/csv.txt"
holds "48 numbers of them" [ "$(wc -l <"$work/csv.txt")" -eq 48 ]
good "another seed" "${run[@]}" --seed 6 -o "$work/c.csv"
holds "another seed, other actions" bash -c '! cmp -s "$1" "$2"' - "$work/a.csv" "$work/c.csv"
good "-o - is stdout" "${run[@]}" --seed 5 -o - --format csv
holds "-o -: nothing but the actions" cmp "$work/out" "$work/a.csv"
good "a file that is replaced" "${run[@]}" --seed 6 -o "$work/a.csv"
holds "the new content is there" cmp "$work/a.csv" "$work/c.csv"
holds "no temporary file is left" bash -c '! ls "$1" | grep -q "[ab]\.\(csv\|json\|npy\)."' - "$work"

# The state as a list and in every kind of file; a .npy made by the command is read back.
good "reference" "${run[@]}" -o "$work/list.csv"
echo '[0.1, -0.2]' >"$work/s.json"
echo '{"state": [0.1, -0.2]}' >"$work/o.json"
printf '# joints\n0.1, -0.2\r\n' >"$work/s.csv"
for file in s.json o.json s.csv; do
    good "--state $file" "$pi0" run --model "$tiny" --no-stats --image "base_0_rgb=assets/cam_high.jpg" \
        --image "right_wrist_0_rgb=assets/cam_right_wrist.png" --state "$work/$file" --tokens 2,17,4 -o "$work/file.csv"
    holds "--state $file: the same actions" cmp "$work/list.csv" "$work/file.csv"
done
good "noise from an .npy" "${run[@]}" --noise "$work/b.npy" -o "$work/n1.csv"
good "noise from a .csv" "${run[@]}" --noise "$work/b.csv" -o "$work/n2.csv"
holds "both noises are one" cmp "$work/n1.csv" "$work/n2.csv"
holds "noise matters" bash -c '! cmp -s "$1" "$2"' - "$work/list.csv" "$work/n1.csv"
good "masked cameras computed" "${run[@]}" --masked-cameras compute --precision f32 -o "$work/m1.csv"
good "masked cameras skipped" "${run[@]}" --masked-cameras skip --precision f32 -o "$work/m2.csv"
holds "the actions differ by rounding at most" bash -c 'paste -d, "$1" "$2" | awk -F, "{ for (i = 1; i <= 8; i++) { d = \$i - \$(i + 8); if (d < 0) d = -d; if (d > 1e-4) exit 1 } }"' - "$work/m1.csv" "$work/m2.csv"
good "steps and horizon" "${run[@]}" --steps 3 --horizon 9 --json
holds "steps and horizon are those asked for" grep -q '"horizon":9,"action_dim":8,"steps":3' "$work/out"
good "more steps than the default" "${run[@]}" --steps 25 --json
good "synthetic weights in memory" "$pi0" run --synthetic pi0_tiny --seed 1 --image base_0_rgb=assets/cam_high.jpg \
    --image right_wrist_0_rgb=assets/cam_right_wrist.png --state 0.1,-0.2 --tokens 2,17,4 -o "$work/mem.csv"
good "the same from a file" "${run[@]}" --seed 1 -o "$work/file.csv"
holds "in memory or on disk, the same actions" cmp "$work/mem.csv" "$work/file.csv"

# check: 0 within the tolerance, 1 above it.
good "check" "$pi0" check --case tests/golden/pi0_tiny --precision f32
holds "check: shows the actions" grep -Eq '^actions +48 .* ok$' "$work/out"
good "check --json" "$pi0" check --case tests/golden/pi0_tiny --json
holds "check --json: the promised form" grep -Eq '^\{"case":"pi0_tiny","backend":"cpu","stages":\[\{"name":"[a-z_0-9]+","rel_l2":[0-9.e-]+,"cosine":[0-9.]+,"max_abs":[0-9.e-]+,"pass":true\},.*\],"pass":true\}$' "$work/out"
holds "check --json: actions among the stages" grep -q '"name":"actions"' "$work/out"
good "check of model and io" "$pi0" check --model tests/golden/pi0_tiny --io tests/golden/pi0_tiny/io.safetensors --precision f32
good "check of a synthetic case" "$pi0" check --case tests/golden/pi0_tiny_3cam --isa scalar --threads 1 --precision f32
"$pi0" check --case tests/golden/pi0_tiny --tolerance 1e-12 >"$work/out" 2>"$work/err"
holds "check above its tolerance: exit code 1" [ $? -eq 1 ]
holds "check above its tolerance: says which" grep -q 'FAIL' "$work/out"
"$pi0" check --case tests/golden/pi0_tiny --tolerance 1e-12 --json >"$work/out" 2>"$work/err"
holds "the same as JSON: exit code 1" [ $? -eq 1 ]
holds "the same as JSON: pass is false" grep -Eq '"pass":false\}$' "$work/out"
"$pi0" check --model "$tiny" --io tests/golden/pi0_tiny/io.safetensors --precision f32 >"$work/out" 2>"$work/err"
holds "other weights are found out: exit code 1" [ $? -eq 1 ]

# --isa: what is asked for is what is used, where the processor has it.
for pair in avx2:avx2 avx512:avx512vl avx512_bf16:avx512_bf16 amx_bf16:amx_bf16; do
    if grep -qw "${pair#*:}" /proc/cpuinfo; then
        good "--isa ${pair%:*}" "$pi0" inspect --synthetic pi0_tiny --backend cpu --isa "${pair%:*}" --json
        holds "--isa ${pair%:*} is in force" grep -q "\"isa\": \"${pair%:*}\"" "$work/out"
    else
        skip "--isa ${pair%:*}" "this processor does not have it"
    fi
done
good "--isa scalar" "$pi0" inspect --synthetic pi0_tiny --backend cpu --isa scalar --json
holds "--isa scalar is in force" grep -q '"isa": "scalar"' "$work/out"

# bench
good "bench, plain" "$pi0" bench tiny --n 3 --warmup 1
holds "bench: whole and stages" bash -c 'for s in vision prefix denoise whole; do grep -Eq "^  $s +[0-9.]+ " "$1" || exit 1; done' - "$work/out"
good "bench --json --append" "$pi0" bench tiny --n 3 --warmup 0 --batch 1,2 --json --append "$work/rows.jsonl"
holds "bench --json: one line a batch" [ "$(wc -l <"$work/out")" -eq 2 ]
holds "bench --append: the same lines" cmp "$work/out" "$work/rows.jsonl"
for key in date commit device backend threads workload batch steps n p50_ms p95_ms p99_ms min_ms samples_per_s \
    vision_ms prefix_ms denoise_ms precision isa prefix_tokens cameras horizon dtype; do
    holds "bench --json has $key" bash -c '[ "$(grep -c "\"$1\":" "$2")" -eq 2 ]' - "$key" "$work/out"
done
good "bench --append again" "$pi0" bench tiny --n 1 --warmup 0 --append "$work/rows.jsonl"
holds "bench --append appends" [ "$(wc -l <"$work/rows.jsonl")" -eq 3 ]

# On a terminal: plots, colour, a shortened table; NO_COLOR and TERM=dumb are heeded.
if script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    terminal() { # ENVIRONMENT…: the command under a terminal of its own, its output to $work/tty
        env "$@" script -qec "$(printf '%q ' "${run[@]}" --horizon 20)" /dev/null >"$work/tty" </dev/null
    }
    terminal TERM=xterm
    holds "terminal: colour" grep -q "$(printf '\033\[36m')" "$work/tty"
    holds "terminal: a plot of each dimension" [ "$(grep -Ec 'dim [0-7] .*[▁▂▃▄▅▆▇█]{10}' "$work/tty")" -eq 8 ]
    holds "terminal: the table is shortened" grep -q '11 more rows' "$work/tty"
    terminal TERM=xterm NO_COLOR=1
    holds "NO_COLOR: no colour" bash -c '! grep -q "$(printf "\033\[[0-9]*m")" "$1"' - "$work/tty"
    holds "NO_COLOR: still a plot" grep -q '█' "$work/tty"
    terminal TERM=dumb
    holds "TERM=dumb: no escapes at all" bash -c '! grep -q "$(printf "\033")" "$1"' - "$work/tty"
    terminal TERM=xterm LC_ALL=C
    holds "a locale without UTF-8: plot in ASCII" bash -c '! grep -q "█" "$1" && grep -q "dim 0" "$1"' - "$work/tty"
else
    skip "the command on a terminal" "no script(1) here"
fi

# Ctrl-C in the middle of a large synth: nothing is left, the shell sees the signal.
mkdir "$work/stop"
"$pi0" synth --dims pi0 -o "$work/stop/model" >"$work/out" 2>"$work/err" &
pid=$!
for _ in $(seq 100); do
    sleep 0.05
    [ -n "$(ls -A "$work/stop/model" 2>/dev/null)" ] && break
done
kill -TERM $pid
wait $pid
holds "a stopped synth ends by its signal" [ $? -eq 143 ]
holds "a stopped synth leaves no file" [ -z "$(ls -A "$work/stop/model" 2>/dev/null)" ]
finish
