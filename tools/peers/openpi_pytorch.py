#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""openpi_pytorch.py: times openpi's PyTorch π0 or π0.5 on a workload of `pi0 bench`.

Uses openpi's public classes only: openpi.models.pi0_config.Pi0Config and
openpi.models_pytorch.pi0_pytorch.PI0Pytorch.sample_actions (github.com/Physical-Intelligence/openpi, whose
README says how to install it and how to patch transformers for PyTorch). Run it with openpi's environment.

What is timed: images, state and prompt ids from host memory to the device, sample_actions, actions back. openpi
computes a masked camera and masks it in attention, so pi0-532 is the same work as pi0-788 there.
"""
import functools
import types

import torch
from openpi.models.pi0_config import Pi0Config
from openpi.models_pytorch.pi0_pytorch import PI0Pytorch

import peer_report as pr


def build(a):
    variant, _, _, _, slots, horizon = pr.WORKLOADS[a.workload]
    config = Pi0Config(pi05=variant == "pi05", action_dim=pr.ACTION_DIM, action_horizon=horizon,
                       max_token_len=slots, dtype="bfloat16")
    model = PI0Pytorch(config).to(a.device).eval()
    eager = functools.partial(PI0Pytorch.sample_actions, model)  # the class compiles its own when it is made
    if a.compile == "none":
        return eager, horizon
    return torch.compile(eager, mode=a.compile) if a.compile else model.sample_actions, horizon


def inputs(a, batch):
    """The observation as sample_actions reads it, on the host."""
    _, cameras, valid, tokens, slots, _ = pr.WORKLOADS[a.workload]
    g = torch.Generator().manual_seed(0)
    names = pr.CAMERAS[:cameras]
    mask = torch.zeros(batch, slots, dtype=torch.bool)
    mask[:, :tokens] = True
    return {
        "images": {n: torch.rand(batch, 3, pr.IMAGE, pr.IMAGE, generator=g) * 2 - 1 for n in names},
        "image_masks": {n: torch.full((batch,), i < valid) for i, n in enumerate(names)},
        "state": torch.rand(batch, pr.ACTION_DIM, generator=g) * 2 - 1,
        "tokenized_prompt": torch.randint(0, 257152, (batch, slots), generator=g),
        "tokenized_prompt_mask": mask,
        "token_ar_mask": None,
        "token_loss_mask": None,
    }


def to_device(value, device):
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    return value if value is None else value.to(device)


def main():
    a = pr.arguments(__doc__)
    torch.set_float32_matmul_precision("high")
    sample_actions, horizon = build(a)

    def make_call(batch):
        host = inputs(a, batch)
        noise = torch.randn(batch, horizon, pr.ACTION_DIM, generator=torch.Generator().manual_seed(1))

        def call():
            observation = types.SimpleNamespace(**to_device(host, a.device))
            with torch.inference_mode():
                out = sample_actions(a.device, observation, noise=noise.to(a.device), num_steps=a.steps)
            return out.cpu()

        return call

    notes = f"masked camera computed; torch.compile {a.compile or 'as openpi sets it'}"
    pr.run(a, "openpi", "PyTorch", notes, make_call)


main()
