# SPDX-License-Identifier: Apache-2.0
"""peer_report: what the two peer scripts share: the workloads of `pi0 bench`, the clock, and the
report.json of bench/report.schema.json. Needs torch and nothing of this project."""
import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time

import torch

# name: cameras, valid cameras, prompt tokens, prompt slots, horizon (cli/workload.c)
WORKLOADS = {
    "pi0-788": ("pi0", 3, 2, 20, 20, 10),
    "pi0-532": ("pi0", 3, 2, 20, 20, 10),
    "pi0-799-h50": ("pi0", 3, 3, 31, 48, 50),
    "pi05-968-h50": ("pi05", 3, 3, 200, 200, 50),
}
ACTION_DIM = 32
IMAGE = 224
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def arguments(about):
    p = argparse.ArgumentParser(description=about)
    p.add_argument("--workload", default="pi0-788", choices=sorted(WORKLOADS))
    p.add_argument("--batch", default="1", help="list of batch sizes, such as 1,2,4")
    p.add_argument("--steps", type=int, default=10, help="denoising steps")
    p.add_argument("--n", type=int, default=50, help="timed calls of a block")
    p.add_argument("--blocks", type=int, default=5)
    p.add_argument("--warmup", type=int, default=10)
    p.add_argument("--device", default="cuda")
    p.add_argument("--compile", default="", help="mode for torch.compile, or none; empty: as the peer sets it")
    p.add_argument("--out", required=True, help="folder for report.json")
    return p.parse_args()


def synchronize(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed_blocks(call, a):
    """[blocks][n] milliseconds of call()."""
    for _ in range(a.warmup):
        call()
    blocks = []
    for _ in range(a.blocks):
        times = []
        for _ in range(a.n):
            synchronize(a.device)
            start = time.perf_counter()
            call()
            synchronize(a.device)
            times.append((time.perf_counter() - start) * 1e3)
        blocks.append(times)
    return blocks


def percentile(values, p):
    """Nearest rank, as pi0 bench counts."""
    v = sorted(values)
    return v[max(1, -(-int(p * 1000) * len(v) // 1000)) - 1]


def percentiles(values):
    return {"p50_ms": percentile(values, 0.50), "p95_ms": percentile(values, 0.95),
            "p99_ms": percentile(values, 0.99), "min_ms": min(values)}


def headline_row(a, blocks):
    _, cameras, _, tokens, _, horizon = WORKLOADS[a.workload]
    values = [t for block in blocks for t in block]
    medians = [statistics.median(block) for block in blocks]
    row = {"workload": a.workload, "about": "peer", "horizon": horizon, "calls": len(values),
           "prefix_tokens": cameras * (IMAGE // 14) ** 2 + tokens}
    row.update(percentiles(values))
    row["hz"] = 1e3 / row["p50_ms"]
    row["block_p50_ms"] = medians
    row["spread_percent"] = (max(medians) - min(medians)) / row["p50_ms"] * 100
    row["stages"] = []
    row["conditions"] = {"source": "", "clock_mhz": {}, "throttle": []}
    row["energy"] = {"reason": "not measured by the peer scripts"}
    return row


def batch_row(batch, blocks, device):
    values = [t for block in blocks for t in block]
    row = {"batch": batch, "status": "ok", "calls": len(values), "j_per_sample": None}
    row.update(percentiles(values))
    row["samples_per_s"] = batch / row["p50_ms"] * 1e3
    if device.startswith("cuda"):
        row["memory_bytes"] = torch.cuda.max_memory_allocated()
    return row


def run(a, name, version, notes, make_call):
    """make_call(batch) gives a function of no arguments that runs one call to the end."""
    headline, rows = None, []
    for batch in [int(b) for b in a.batch.split(",")]:
        try:
            blocks = timed_blocks(make_call(batch), a)
        except torch.cuda.OutOfMemoryError as e:
            torch.cuda.empty_cache()
            rows.append({"batch": batch, "status": "out of memory", "reason": str(e)[:200]})
            continue
        rows.append(batch_row(batch, blocks, a.device))
        if batch == 1:
            headline = [headline_row(a, blocks)]
    absent = {"reason": "not measured by the peer scripts"}
    gpu = a.device.startswith("cuda")
    report = {
        "format": "pi0-report", "version": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": f"{name} {version}", "command": " ".join(sys.argv),
        "settings": {"steps": a.steps, "blocks": a.blocks, "warmup": a.warmup,
                     "weights": "random initialisation, bf16", "notes": notes},
        "machine": {"device": torch.cuda.get_device_name() if gpu else platform.processor() or "cpu",
                    "backend": f"{name}, torch {torch.__version__}", "precision": "bf16",
                    "threads": torch.get_num_threads()},
        "ceilings": {"flops_per_s": None, "bytes_per_s": None, "source": "not given"},
        "headline": headline or absent, "batch": {"workload": a.workload, "rows": rows},
        "power": absent, "ladder": absent, "breakdown": absent,
    }
    os.makedirs(a.out, exist_ok=True)
    path = os.path.join(a.out, "report.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(report, f, indent=1)
    for row in rows:
        if row["status"] == "ok":
            print(f"{name} {a.workload} ×{row['batch']}: p50 {row['p50_ms']:.3f} ms, p99 {row['p99_ms']:.3f} ms, "
                  f"{row['samples_per_s']:.2f} samples/s")
        else:
            print(f"{name} {a.workload} ×{row['batch']}: {row['status']}")
    print(path)
