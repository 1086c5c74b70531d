#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# demo.sh: the main job on real input, with no weights to fetch. Makes a small checkpoint of random
# weights in the manner of an ALOHA robot (dimensions cut down, 224 × 224 images as ever), then runs
# the three camera images of assets/ and a sentence through it. `make demo` builds build/pi0 first.
set -eu
cd "$(dirname "$0")/.."
pi0=${PI0:-build/pi0}
model=${DEMO_DIR:-build/demo}

if [ ! -x "$pi0" ]; then
    echo "demo: $pi0 is not there; run make first" >&2
    exit 1
fi

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
if [ ! -t 1 ] || [ -n "${NO_COLOR:-}" ] || [ "${TERM:-dumb}" = dumb ]; then
    say() { printf '\n%s\n' "$*"; }
fi

say "1. A small π0 with random weights: $model"
"$pi0" synth --dims pi0_tiny --seed 1 --force -o "$model" \
    --set image_size=224 --set vision_width=192 --set vision_depth=4 --set vision_mlp_dim=768 \
    --set vlm_width=384 --set vlm_mlp_dim=1536 --set expert_width=192 --set expert_mlp_dim=768 \
    --set depth=4 --set heads=8 --set head_dim=64 --set vocab_size=1200 \
    --set action_dim=32 --set action_horizon=50 --set max_token_len=48
# What weights do not say: whose cameras, joints and units (docs/model.md).
echo '{ "preset": "pi0_aloha" }' >"$model/pi0.json"
cp tests/golden/pipeline/tokenizer.model "$model/tokenizer.model"
# Per joint, in the model's space: waist, shoulder, elbow, forearm, wrist, rotate, gripper, twice.
mkdir -p "$model/assets/trossen"
cat >"$model/assets/trossen/norm_stats.json" <<'END'
{ "norm_stats": {
    "state":   { "mean": [0.00, 0.90, -1.10, 0.00, -0.55, 0.00, 0.40,  0.00, 0.90, -1.10, 0.00, -0.55, 0.00, 0.40],
                 "std":  [0.20, 0.35, 0.30, 0.25, 0.30, 0.25, 0.35,  0.20, 0.35, 0.30, 0.25, 0.30, 0.25, 0.35],
                 "q01": null, "q99": null },
    "actions": { "mean": [0.00, 0.02, -0.02, 0.00, 0.01, 0.00, 0.40,  0.00, 0.02, -0.02, 0.00, 0.01, 0.00, 0.40],
                 "std":  [0.08, 0.12, 0.10, 0.09, 0.10, 0.09, 0.35,  0.08, 0.12, 0.10, 0.09, 0.10, 0.09, 0.35],
                 "q01": null, "q99": null } } }
END

run() {
    "$pi0" run --model "$model" \
        --image cam_high=assets/cam_high.jpg \
        --image cam_left_wrist=assets/cam_left_wrist.jpg \
        --image cam_right_wrist=assets/cam_right_wrist.png \
        --state 0.0,-0.96,1.16,0.0,-0.3,0.0,0.2,0.0,-0.96,1.16,0.0,-0.3,0.0,0.2 \
        --prompt "put the red block into the bowl" --seed 7 "$@"
}
say "2. Three cameras, 14 joints, \"put the red block into the bowl\""
run -o "$model/actions.json"

say "3. The same seed gives the same actions, bit for bit"
run --quiet -o "$model/again.npy" >/dev/null
run --quiet -o "$model/once_more.npy" --threads 1 >/dev/null
cmp "$model/again.npy" "$model/once_more.npy"
echo "$model/again.npy and $model/once_more.npy (one thread) are equal"

echo
echo "The weights are random, so the motion means nothing. With a trained checkpoint:"
echo "  build/pi0 run --model DIR --preset pi0_aloha --image cam_high=FILE …"
echo "What this network is and what it costs:"
echo "  build/pi0 inspect --model $model"
