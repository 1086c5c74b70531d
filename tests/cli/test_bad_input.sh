#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test_bad_input.sh: everything a user, a disk or an attacker can get wrong. Each must end with exit
# code 2 and one line that says what was found and what was expected, and leave nothing behind.
# shellcheck disable=SC2016,SC2054 # quoted scripts take their own arguments; commas belong to the values
# shellcheck source=tests/cli/checks.bash
. "$(dirname "$0")/checks.bash"

tiny=$work/tiny
good "a tiny checkpoint" "$pi0" synth --dims pi0_tiny --seed 1 -o "$tiny"
header_bytes=$(od -An -tu8 -N8 "$tiny/model.safetensors" | tr -d ' ')
image=(--image "base_0_rgb=$repo/assets/cam_high.jpg")
tokens=(--tokens 2,17,4)
state=(--state 0.1,0.2)

# copy NAME: a checkpoint of its own to be damaged.
copy() {
    cp -r "$tiny" "$work/$1"
    echo "$work/$1"
}
# refuses NAME PATTERN DIR: run, check and inspect all refuse the checkpoint.
refuses() {
    bad "$1 (inspect)" "$2" "$pi0" inspect --model "$3" --no-engine
    bad "$1 (run)" "$2" "$pi0" run --model "$3" --no-stats "${image[@]}" "${tokens[@]}" "${state[@]}" -o "$work/no.json"
    bad "$1 (check)" "$2" "$pi0" check --model "$3" --io "$repo/tests/golden/pi0_tiny/io.safetensors"
}

# ---- the checkpoint's container
for cut in 0 4 8 100 $((header_bytes + 8)) $((header_bytes + 9)) "$(($(stat -c %s "$tiny/model.safetensors") - 1))"; do
    d=$(copy "cut$cut")
    truncate -s "$cut" "$d/model.safetensors"
    refuses "safetensors cut to $cut bytes" "model.safetensors" "$d"
done
d=$(copy huge)
printf '\xff\xff\xff\xff\xff\xff\xff\x7f' | dd of="$d/model.safetensors" conv=notrunc status=none
refuses "safetensors header of 2^63-1 bytes" "model.safetensors.*header" "$d"
d=$(copy overlap)
safetensors "$d/model.safetensors" '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}' 24
refuses "overlapping tensors" "overlap|\[8, ?24\]|8 to 24|offset" "$d"
d=$(copy beyond)
safetensors "$d/model.safetensors" '{"a":{"dtype":"F32","shape":[1048576],"data_offsets":[0,4194304]}}' 16
refuses "a tensor past the end of the file" "a.*4194304|4194304" "$d"
d=$(copy overflow)
safetensors "$d/model.safetensors" '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}' 16
refuses "a shape that overflows" "4294967296|overflow|elements|shape" "$d"
d=$(copy nojson)
safetensors "$d/model.safetensors" '{"a":' 16
refuses "a header that is no JSON" "model.safetensors" "$d"

# ---- what the tensors say
edit() { LC_ALL=C sed -i "0,/$2/s//$3/" "$1/model.safetensors"; }
d=$(copy dtype)
edit "$d" '"BF16"' '"I16" '
refuses "a dtype that no model has" "I16.*expected|expected.*BF16" "$d"
d=$(copy shape)
edit "$d" '\("action_out_proj.weight":{[^}]*"shape":\)\[8,64\]' '\1[64,8]'
refuses "a transposed matrix" "action_out_proj.weight.*\[64, ?8\].*expected.*\[8, ?64\]" "$d"
d=$(copy missing)
edit "$d" '"action_out_proj.bias"' '"action_out_proj.biaX"'
refuses "a missing tensor" "action_out_proj.bias" "$d"
d=$(copy config)
echo '{' >"$d/config.json"
refuses "config.json that is no JSON" "config.json" "$d"
d=$(copy ours)
echo '{ "presett": "pi0_libero" }' >"$d/pi0.json"
refuses "pi0.json with an unknown key" 'pi0.json.*presett' "$d"
d=$(copy preset)
bad "a preset that is not known" '"pi0_libreo"' "$pi0" inspect --model "$d" --preset pi0_libreo
bad "a preset of the other variant" 'pi05_libero.*pi05' "$pi0" inspect --model "$d" --preset pi05_libero
bad "action size mismatch" "14|action" "$pi0" run --model "$d" --no-stats --preset pi0_aloha_sim "${image[@]}" "${tokens[@]}" "${state[@]}"

# ---- directories
bad "no such directory" "nowhere.*No such file" "$pi0" inspect --model "$work/nowhere"
bad "a file for a directory" "config.json.*Not a directory|not a directory" "$pi0" inspect --model "$tiny/config.json"
mkdir "$work/bare"
bad "a directory without a checkpoint" "model.safetensors" "$pi0" inspect --model "$work/bare"
d=$(copy locked)
chmod 000 "$d"
as_user=() # root reads everything, unless it gives up the right to
[ "$(id -u)" -eq 0 ] && as_user=(setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search)
if "${as_user[@]}" true 2>/dev/null && ! "${as_user[@]}" ls "$d" >/dev/null 2>&1; then
    bad "an unreadable directory" "Permission denied" "${as_user[@]}" "$pi0" inspect --model "$d"
else
    skip "an unreadable directory" "root reads everything here"
fi
chmod 755 "$d"

# ---- the observation
run=("$pi0" run --model "$tiny" --no-stats -o "$work/no.json")
for value in nan -nan inf -inf 1e400; do
    bad "state with $value" "state|number" "${run[@]}" "${image[@]}" "${tokens[@]}" --state "0.1,$value"
done
bad "an empty number in the state" '--state: number 2 is ""' "${run[@]}" "${image[@]}" "${tokens[@]}" --state 0.1,,0.2
bad "a state that is no number" '--state: number 1 is "left"' "${run[@]}" "${image[@]}" "${tokens[@]}" --state left
bad "no state" "state of 0 numbers, expected" "${run[@]}" "${image[@]}" "${tokens[@]}"
bad "a state that is too long" "state of 9 numbers, expected 1 to 8" "${run[@]}" "${image[@]}" "${tokens[@]}" --state 1,2,3,4,5,6,7,8,9
bad "a state file that is not there" "--state .*No such file" "${run[@]}" "${image[@]}" "${tokens[@]}" --state "$work/none.json"
echo '[0.1, [0.2]]' >"$work/ragged.json"
bad "a ragged state file" "expected an array of numbers" "${run[@]}" "${image[@]}" "${tokens[@]}" --state "$work/ragged.json"
echo '[0.1, "x"]' >"$work/text.json"
bad "text in a state file" "expected an array of numbers" "${run[@]}" "${image[@]}" "${tokens[@]}" --state "$work/text.json"
echo '[0.1,' >"$work/cut.json"
bad "a cut state file" "cut.json: line" "${run[@]}" "${image[@]}" "${tokens[@]}" --state "$work/cut.json"
printf '[%.0s' $(seq 3000) >"$work/deep.json"
bad "a deep state file" "deep.json" "${run[@]}" "${image[@]}" "${tokens[@]}" --state "$work/deep.json"
printf '0.1,0.2\n0.3\n' >"$work/ragged.csv"
bad "a ragged .csv" "line 2 has 1 numbers, the lines above 2" "${run[@]}" "${image[@]}" "${tokens[@]}" --state "$work/ragged.csv"
: >"$work/empty.csv"
bad "an empty .csv" "holds no numbers" "${run[@]}" "${image[@]}" "${tokens[@]}" --state "$work/empty.csv"

# npy FILE HEADER BYTES: version 1, the header padded as it comes, zeros behind.
npy() {
    {
        printf '\x93NUMPY\x01\x00'
        # shellcheck disable=SC2059
        printf "\\x$(printf %02x $((${#2} % 256)))\\x$(printf %02x $((${#2} / 256)))"
        printf %s "$2"
        head -c "$3" /dev/zero
    } >"$1"
}
npy_case() { # NAME PATTERN HEADER BYTES
    npy "$work/x.npy" "$3" "$4"
    bad ".npy: $1" "$2" "${run[@]}" "${image[@]}" "${tokens[@]}" "${state[@]}" --noise "$work/x.npy"
}
npy_case "wrong shape" "shape \[6, 7\], expected \[6, 8\]" "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 7), }" 168
npy_case "too few dimensions" "shape \[48\], expected \[6, 8\]" "{'descr': '<f4', 'fortran_order': False, 'shape': (48,), }" 192
npy_case "integers" "dtype '<i4', expected '<f4' or '<f8'" "{'descr': '<i4', 'fortran_order': False, 'shape': (6, 8), }" 192
npy_case "big-endian" "dtype '>f4'" "{'descr': '>f4', 'fortran_order': False, 'shape': (6, 8), }" 192
npy_case "columns first" "C-ordered" "{'descr': '<f4', 'fortran_order': True, 'shape': (6, 8), }" 192
npy_case "truncated" "191 bytes of values, expected 192" "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }" 191
npy_case "a byte too many" "193 bytes of values, expected 192" "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }" 193
npy_case "a shape that overflows" "C-ordered shape of at most" "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }" 16
npy_case "nine dimensions" "at most 8 dimensions" "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,6,8), }" 192
npy_case "no shape" "shape" "{'descr': '<f4', 'fortran_order': False, }" 192
npy_case "a shape that is cut" "shape" "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 8" 192
npy_case "no header" "dtype none" "" 192
printf 'PK' >"$work/x.npy"
bad ".npy: something else" "is no .npy file" "${run[@]}" "${image[@]}" "${tokens[@]}" "${state[@]}" --noise "$work/x.npy"
printf '\x93NUMPY\x01\x00\xff\xff' >"$work/x.npy"
head -c 100 /dev/zero >>"$work/x.npy"
bad ".npy: header past the end" "header of 65535 bytes" "${run[@]}" "${image[@]}" "${tokens[@]}" "${state[@]}" --noise "$work/x.npy"
yes "1e39,0,0,0,0,0,0,0" | head -6 >"$work/big.csv"
bad "noise past float32" "expected a finite number" "${run[@]}" "${image[@]}" "${tokens[@]}" "${state[@]}" --noise "$work/big.csv"
bad "noise of no known kind" "ends in .npy, .json or .csv" "${run[@]}" "${image[@]}" "${tokens[@]}" "${state[@]}" --noise "$work/noise.bin"
bad "noise that is a directory" "is a directory" "${run[@]}" "${image[@]}" "${tokens[@]}" "${state[@]}" --noise "$(mkdir -p "$work/d.npy" && echo "$work/d.npy")"

head -c 20000 "$repo/assets/cam_high.jpg" >"$work/cut.jpg"
bad "a truncated JPEG" "cut.jpg" "${run[@]}" --image "base_0_rgb=$work/cut.jpg" "${tokens[@]}" "${state[@]}"
{ head -c 3000 "$repo/assets/cam_high.jpg"; head -c 3000 /dev/zero; tail -c +6001 "$repo/assets/cam_high.jpg"; } >"$work/hole.jpg"
bad "a corrupt JPEG" "hole.jpg" "${run[@]}" --image "base_0_rgb=$work/hole.jpg" "${tokens[@]}" "${state[@]}"
echo "not an image" >"$work/text.png"
bad "an image that is none" "text.png" "${run[@]}" --image "base_0_rgb=$work/text.png" "${tokens[@]}" "${state[@]}"
bad "an image that is not there" "none.png.*No such file" "${run[@]}" --image "base_0_rgb=$work/none.png" "${tokens[@]}" "${state[@]}"
bad "a camera that the model does not have" "third_eye" "${run[@]}" --image "third_eye=$repo/assets/cam_high.jpg" "${tokens[@]}" "${state[@]}"
bad "a missing camera" "wrist" "${run[@]}" --robot libero --image "observation/image=$repo/assets/cam_high.jpg" "${tokens[@]}" --state 1,2,3,4,5,6,7,8
bad "a state of another robot" "state of 2 numbers, expected 8" "${run[@]}" --robot libero --image "observation/image=$repo/assets/cam_high.jpg" \
    --image "observation/wrist_image=$repo/assets/cam_left_wrist.jpg" "${tokens[@]}" "${state[@]}"

cp "$repo/tests/golden/pipeline/tokenizer.model" "$work/tokenizer.model"
words=("${run[@]}" "${image[@]}" "${state[@]}")
bad "no tokenizer" "tokenizer" "${words[@]}" --prompt "pick up the block"
bad "a tokenizer that is not there" "none.model.*No such file" "${words[@]}" --tokenizer "$work/none.model" --prompt x
bad "a tokenizer that is none" "text.png" "${words[@]}" --tokenizer "$work/text.png" --prompt x
bad "a tokenizer larger than the token table" "1200 pieces, expected at most the 512" "${words[@]}" --tokenizer "$work/tokenizer.model" --prompt x
good "a checkpoint with a larger table" "$pi0" synth --dims pi0_tiny --set vocab_size=1200 -o "$work/words"
words=("$pi0" run --model "$work/words" --no-stats -o "$work/no.json" --tokenizer "$work/tokenizer.model" "${image[@]}" "${state[@]}")
bad "no prompt" "no prompt" "${words[@]}"
bad "a prompt that is not UTF-8" "UTF-8" "${words[@]}" --prompt $'pick \xff\xfe up'
head -c 20000000 /dev/zero | tr '\0' 'a' >"$work/long.txt"
bad "a prompt of 20 MB" "20000000 bytes, expected at most" "${words[@]}" --prompt-file "$work/long.txt"
bad "a token id past the table" "512" "${run[@]}" "${image[@]}" "${state[@]}" --tokens 2,512
bad "more ids than the model reads" "13 token ids, expected 0 to 12" "${run[@]}" "${image[@]}" "${state[@]}" --tokens 1,2,3,4,5,6,7,8,9,10,11,12,13

# ---- statistics
bad "no statistics" "norm_stats.json" "$pi0" run --model "$tiny" "${image[@]}" "${tokens[@]}" "${state[@]}" -o "$work/no.json"
stats() { # NAME PATTERN JSON
    echo "$3" >"$work/stats.json"
    bad "statistics: $1" "$2" "$pi0" run --model "$tiny" --norm-stats "$work/stats.json" "${image[@]}" "${tokens[@]}" "${state[@]}" -o "$work/no.json"
}
good_actions='"actions": { "mean": [0,0,0,0,0,0,0,0], "std": [1,1,1,1,1,1,1,1], "q01": null, "q99": null }'
stats "no JSON" "stats.json" '{'
stats "no state" "state" "{ \"norm_stats\": { $good_actions } }"
stats "lengths that differ" "std|mean" "{ \"norm_stats\": { \"state\": { \"mean\": [0,0], \"std\": [1], \"q01\": null, \"q99\": null }, $good_actions } }"
stats "shorter than the state" "state of 2 numbers, expected at most 1" "{ \"norm_stats\": { \"state\": { \"mean\": [0], \"std\": [1], \"q01\": null, \"q99\": null }, $good_actions } }"
stats "past float64" "stats.json" "{ \"norm_stats\": { \"state\": { \"mean\": [0,1e999], \"std\": [1,1], \"q01\": null, \"q99\": null }, $good_actions } }"
stats "NaN" "stats.json" "{ \"norm_stats\": { \"state\": { \"mean\": [0,NaN], \"std\": [1,1], \"q01\": null, \"q99\": null }, $good_actions } }"
stats "text" "mean" "{ \"norm_stats\": { \"state\": { \"mean\": [0,\"x\"], \"std\": [1,1], \"q01\": null, \"q99\": null }, $good_actions } }"
bad "statistics that are not there" "none.json.*No such file" "$pi0" run --model "$tiny" --norm-stats "$work/none.json" "${image[@]}" "${tokens[@]}" "${state[@]}"

# ---- golden files
echo x >"$work/io.safetensors"
bad "check: an io file that is none" "io.safetensors" "$pi0" check --model "$tiny" --io "$work/io.safetensors"
bad "check: an io file that is not there" "cannot be opened" "$pi0" check --model "$tiny" --io "$work/none.safetensors"
safetensors "$work/io.safetensors" '{"noise":{"dtype":"F32","shape":[6,8],"data_offsets":[0,192]}}' 192
bad "check: an io file without inputs" "images_u8 is missing" "$pi0" check --model "$tiny" --io "$work/io.safetensors"
bad "check: values of another model" "." "$pi0" check --model "$tiny" --io "$repo/tests/golden/pi0_h10/io.safetensors"
bad "check: a case that is not there" "config.json" "$pi0" check --case "$work/nowhere"

# ---- where results go
bad "-o with no known ending" "ends in .json, .csv or .npy" "$pi0" run --model "$tiny" --no-stats "${image[@]}" "${tokens[@]}" "${state[@]}" -o "$work/a.txt"
bad "-o in no directory" "cannot be written: No such file" "$pi0" run --model "$tiny" --no-stats "${image[@]}" "${tokens[@]}" "${state[@]}" -o "$work/none/a.json"
bad "-o that is a directory" "is a directory" "$pi0" run --model "$tiny" --no-stats "${image[@]}" "${tokens[@]}" "${state[@]}" -o "$work/d.npy"
bad "--append in no directory" "--append .*: its directory cannot be written" "$pi0" bench tiny --append "$work/none/rows.jsonl"
bad "--append to a directory" "--append .*: is a directory" "$pi0" bench tiny --append "$work"
bad "synth over a checkpoint" "exists .*--force" "$pi0" synth --dims pi0_tiny -o "$tiny"
bad "synth into a file" "config.json" "$pi0" synth --dims pi0_tiny -o "$tiny/config.json"
bad "synth below nothing" "none" "$pi0" synth --dims pi0_tiny -o "$work/none/deep"

# A full disk: a file may not grow past the limit (the shell ignores the signal, write() fails).
cat >"$work/limited" <<'END'
#!/bin/bash
trap "" XFSZ
ulimit -f "$1"
shift
exec "$@"
END
chmod +x "$work/limited"
mkdir "$work/full"
bad "synth on a full disk" "File too large|No space" "$work/limited" 1000 "$pi0" synth --dims pi0_tiny -o "$work/full/model"
empty "a full disk: nothing of the checkpoint stays" "$work/full/model"
rm -rf "$work/full/model"
bad "run -o on a full disk" "actions.json: cannot be written: (File too large|No space)" "$work/limited" 1 "$pi0" run --model "$tiny" --no-stats \
    "${image[@]}" "${tokens[@]}" "${state[@]}" --horizon 64 -o "$work/full/actions.json"
empty "a full disk: no half of the actions stays" "$work/full"
if [ -w /dev/full ]; then
    timeout 60 "$pi0" run --model "$tiny" --no-stats "${image[@]}" "${tokens[@]}" "${state[@]}" --json >/dev/full 2>"$work/err"
    holds "stdout on a full disk: exit code 2" [ $? -eq 2 ]
    holds "stdout on a full disk: said so" grep -q '^pi0: stdout' "$work/err"
else
    skip "stdout on a full disk" "no /dev/full here"
fi

holds "no refused run left its output" [ ! -e "$work/no.json" ]
holds "no temporary file is left" bash -c '! ls "$1" | grep -q "json\..*"' - "$work"
finish
