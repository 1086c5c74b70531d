#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times openpi's PyTorch π0 or π0.5 on a workload of `pi0 bench` and writes DIR/report.json.

Uses openpi's public classes only: Pi0Config, Observation.from_dict and PI0Pytorch.sample_actions, called as its own
Policy.infer calls them (github.com/Physical-Intelligence/openpi). Run it with openpi's environment, transformers
patched as openpi's README says.

What is timed: u8 pixels, state, prompt ids and noise from host memory to the device, Observation.from_dict,
sample_actions, actions back to host memory. openpi computes a masked camera and masks it in attention, so pi0-532 is
the same work as pi0-788 there.
"""
import os

import peer_report as pr

HOW = """Run this with the environment in which openpi is installed (its README: uv sync, then transformers_replace
copied over transformers 4.53.2), or name its src folder in PYTHONPATH."""


def main():
    a = pr.arguments(__doc__)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # openpi imports JAX: keep its hands off the GPU
    try:
        import openpi
        import torch
        import transformers
        from openpi.models.model import Observation
        from openpi.models.pi0_config import Pi0Config
        from openpi.models_pytorch.pi0_pytorch import PI0Pytorch
    except ImportError as e:
        pr.missing(e, HOW)
    import peer_torch as pt

    variant, _, valid, _, slots, horizon = pr.WORKLOADS[a.workload]
    device = pt.Device(a.device)
    mode = {} if a.compile == "peer" else {"pytorch_compile_mode": None if a.compile == "none" else a.compile}
    config = Pi0Config(pi05=variant == "pi05", action_dim=pr.ACTION_DIM, action_horizon=horizon, max_token_len=slots,
                       dtype="bfloat16", **mode)
    try:
        with torch.device(a.device):  # weights are drawn there: much faster than on the host
            model = PI0Pytorch(config)
    except ValueError as e:  # transformers is not patched
        pr.missing(e, HOW)
    model = model.to(a.device).eval()

    def make_call(batch):
        pixels, state, tokens, mask = pt.host_inputs(a.workload, batch)
        masks = {name: torch.full((batch,), i < valid) for i, name in enumerate(pixels)}
        noise = pt.host_noise(a.workload, batch)

        def call():
            observation = Observation.from_dict({
                "image": {name: p.to(a.device) for name, p in pixels.items()},
                "image_mask": {name: m.to(a.device) for name, m in masks.items()},
                "state": state.to(a.device),
                "tokenized_prompt": tokens.to(a.device),
                "tokenized_prompt_mask": mask.to(a.device),
            })
            return model.sample_actions(a.device, observation, noise=noise.to(a.device), num_steps=a.steps).cpu()

        return call

    used = config.pytorch_compile_mode
    pr.run(a, device, {
        "name": "openpi", "version": a.peer_version or pr.source_version("openpi", openpi),
        "backend": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "precision": "bf16, patch embedding and norms f32",
        "notes": "masked cameras and empty prompt slots computed; noise given; "
                 + (f"torch.compile {used}" if used else "eager"),
    }, make_call)


if __name__ == "__main__":
    main()
