#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times lerobot's π0 or π0.5 policy on a workload of `pi0 bench` and writes DIR/report.json.

Uses lerobot's public classes only: PI0Config and PI0Policy of lerobot.policies.pi0, or their π0.5 twins, and
predict_action_chunk (github.com/huggingface/lerobot, 0.6 with its "pi" extra). Prompt ids are given as the policy's own
tokenizer step would leave them, so no tokenizer is needed.

What is timed: u8 pixels, state, prompt ids and noise from host memory to the device, pixels to [0, 1] there,
predict_action_chunk, actions back to host memory. A masked camera is one that is not in the batch: the policy fills
it with -1, computes it and masks it, so pi0-532 is the same work as pi0-788 there.
"""
import peer_report as pr

HOW = 'Run this with the environment in which lerobot is installed: pip install "lerobot[pi]".'


def main():
    a = pr.arguments(__doc__)
    try:
        import lerobot
        import torch
        import transformers
        from lerobot.configs.types import FeatureType, PolicyFeature
        if pr.WORKLOADS[a.workload][0] == "pi05":
            from lerobot.policies.pi05 import PI05Config as Config
            from lerobot.policies.pi05 import PI05Policy as Policy
        else:
            from lerobot.policies.pi0 import PI0Config as Config
            from lerobot.policies.pi0 import PI0Policy as Policy
    except ImportError as e:
        pr.missing(e, HOW)
    import peer_torch as pt

    _, cameras, valid, _, slots, horizon = pr.WORKLOADS[a.workload]
    device = pt.Device(a.device)
    torch.set_float32_matmul_precision("high")  # what the policy sets when it compiles: TF32 for its f32 vision tower
    images = {name: f"observation.images.{name}" for name in pt.CAMERAS[:cameras]}
    features = {key: PolicyFeature(FeatureType.VISUAL, (3, pr.IMAGE, pr.IMAGE)) for key in images.values()}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (pr.ACTION_DIM,))
    mode = {"none": {"compile_model": False}, "peer": {}}.get(
        a.compile, {"compile_model": True, "compile_mode": a.compile})
    config = Config(input_features=features, device=a.device, dtype="bfloat16", chunk_size=horizon,
                    output_features={"action": PolicyFeature(FeatureType.ACTION, (pr.ACTION_DIM,))},
                    n_action_steps=horizon, num_inference_steps=a.steps, tokenizer_max_length=slots, **mode)
    with torch.device(a.device):  # weights are drawn there: much faster than on the host
        policy = Policy(config)
    policy = policy.to(a.device).eval()

    def make_call(batch):
        pixels, state, tokens, mask = pt.host_inputs(a.workload, batch)
        pixels = {images[name]: p for name, p in list(pixels.items())[:valid]}
        noise = pt.host_noise(a.workload, batch)

        def call():
            with torch.inference_mode():  # as lerobot's own loops call a policy
                inputs = {k: p.to(a.device).permute(0, 3, 1, 2).float() / 255 for k, p in pixels.items()}
                inputs["observation.state"] = state.to(a.device)
                inputs["observation.language.tokens"] = tokens.to(a.device)
                inputs["observation.language.attention_mask"] = mask.to(a.device)
                return policy.predict_action_chunk(inputs, noise=noise.to(a.device)).cpu()

        return call

    pr.run(a, device, {
        "name": "lerobot", "version": a.peer_version or lerobot.__version__,
        "backend": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "precision": "bf16, vision and norms f32 (TF32 products)",
        "notes": "masked cameras and empty prompt slots computed; noise given; "
                 + (f"torch.compile {config.compile_mode}" if config.compile_model else "eager"),
    }, make_call)


if __name__ == "__main__":
    main()
