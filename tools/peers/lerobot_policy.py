#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""lerobot_policy.py: times lerobot's π0 or π0.5 policy on a workload of `pi0 bench`.

Uses lerobot's public classes only: lerobot.policies.pi0 (PI0Config, PI0Policy) or lerobot.policies.pi05, and their
predict_action_chunk (github.com/huggingface/lerobot, 0.4 or later, installed with its "pi" extra). Prompt ids are given as the
policy's own tokenizer step would leave them, so no tokenizer is needed.

What is timed: the batch from host memory to the device, predict_action_chunk, actions back.
"""
import torch

import peer_report as pr


def build(a):
    from lerobot.configs.types import FeatureType, PolicyFeature

    variant, cameras, _, _, slots, horizon = pr.WORKLOADS[a.workload]
    if variant == "pi05":
        from lerobot.policies.pi05 import PI05Config as Config
        from lerobot.policies.pi05 import PI05Policy as Policy
    else:
        from lerobot.policies.pi0 import PI0Config as Config
        from lerobot.policies.pi0 import PI0Policy as Policy
    features = {f"observation.images.{n}": PolicyFeature(FeatureType.VISUAL, (3, pr.IMAGE, pr.IMAGE))
                for n in pr.CAMERAS[:cameras]}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (pr.ACTION_DIM,))
    config = Config(input_features=features, device=a.device, dtype="bfloat16", chunk_size=horizon,
                    output_features={"action": PolicyFeature(FeatureType.ACTION, (pr.ACTION_DIM,))},
                    n_action_steps=horizon, num_inference_steps=a.steps, tokenizer_max_length=slots,
                    compile_model=bool(a.compile) and a.compile != "none",
                    **({"compile_mode": a.compile} if a.compile and a.compile != "none" else {}))
    return Policy(config).to(a.device).eval()


def inputs(a, batch):
    """The batch after the policy's preprocessor, on the host. A camera that is not there is left out: the policy
    fills and masks it, and computes it."""
    _, _, valid, tokens, slots, _ = pr.WORKLOADS[a.workload]
    g = torch.Generator().manual_seed(0)
    mask = torch.zeros(batch, slots, dtype=torch.bool)
    mask[:, :tokens] = True
    out = {f"observation.images.{n}": torch.rand(batch, 3, pr.IMAGE, pr.IMAGE, generator=g)
           for n in pr.CAMERAS[:valid]}
    out["observation.state"] = torch.rand(batch, pr.ACTION_DIM, generator=g) * 2 - 1
    out["observation.language.tokens"] = torch.randint(0, 257152, (batch, slots), generator=g)
    out["observation.language.attention_mask"] = mask
    return out


def main():
    a = pr.arguments(__doc__)
    import lerobot

    policy = build(a)

    def make_call(batch):
        host = inputs(a, batch)

        def call():
            with torch.inference_mode():
                return policy.predict_action_chunk({k: v.to(a.device) for k, v in host.items()}).cpu()

        return call

    notes = f"masked camera computed; noise drawn in the call; torch.compile {a.compile or 'off'}"
    pr.run(a, "lerobot", lerobot.__version__, notes, make_call)


main()
