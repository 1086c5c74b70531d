# SPDX-License-Identifier: Apache-2.0
"""peer_report: what the scripts share: the workloads of `pi0 bench`, the clock, and the report.json of
bench/report.schema.json. Standard library only: the device and the model come from the caller.
"""
import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time

# name: model, cameras, valid cameras, prompt tokens, prompt slots, horizon (cli/workload.c)
WORKLOADS = {
    "pi0-788": ("pi0", 3, 2, 20, 20, 10),
    "pi0-532": ("pi0", 3, 2, 20, 20, 10),
    "pi0-799-h50": ("pi0", 3, 3, 31, 48, 50),
    "pi05-968-h50": ("pi05", 3, 3, 200, 200, 50),
}
ACTION_DIM = 32
IMAGE = 224
COMPILE = ("none", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
ABSENT = "not measured by the peer scripts"


def batches(text):
    values = [int(b) for b in text.split(",")]
    if min(values) < 1:
        raise ValueError
    return values


def count(text):
    if int(text) < 1:
        raise ValueError
    return int(text)


def arguments(about, argv=None):
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--workload", default="pi0-788", choices=sorted(WORKLOADS))
    p.add_argument("--batch", default=[1], type=batches, metavar="1,2,…", help="batch sizes; 1 makes the headline")
    p.add_argument("--steps", type=count, default=10, help="denoising steps (10)")
    p.add_argument("--n", type=count, default=50, help="timed calls of a block (50)")
    p.add_argument("--blocks", type=count, default=5, help="blocks (5)")
    p.add_argument("--warmup", type=int, default=10, help="calls before the first block (10)")
    p.add_argument("--device", default="cuda", help="PyTorch's name of the device (cuda)")
    p.add_argument("--compile", default="peer", choices=("peer",) + COMPILE,
                   help="torch.compile's mode, or none; peer: as the implementation has it by itself")
    p.add_argument("--peer-version", default="", help="what to report as the implementation's version")
    p.add_argument("--out", required=True, metavar="DIR", help="folder for report.json")
    return p.parse_args(argv)


def missing(error, how):
    """Ends the script after a failed import: one line for what is not there, one for what to do."""
    sys.exit(f"{os.path.basename(sys.argv[0])}: {error}\n{how}")


def source_version(name, module):
    """A package's version; of a source tree its git commit; else unknown."""
    from importlib import metadata
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
    folder = os.path.dirname(os.path.abspath(module.__file__ or next(iter(module.__path__))))
    try:
        return subprocess.run(["git", "-C", folder, "rev-parse", "--short=12", "HEAD"], check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "of unknown version"


def timed(call, device):
    """(milliseconds of one call, the device idle at both ends; its actions)."""
    device.synchronize()
    start = time.perf_counter()
    actions = call()
    device.synchronize()
    return (time.perf_counter() - start) * 1e3, actions


def percentile(values, p):
    """Nearest rank, as pi0 bench counts."""
    v = sorted(values)
    return v[max(1, -(-round(p * 1000) * len(v) // 1000)) - 1]


def percentiles(values):
    return {"p50_ms": percentile(values, 0.50), "p95_ms": percentile(values, 0.95),
            "p99_ms": percentile(values, 0.99), "min_ms": min(values)}


def headline_row(a, first, blocks, seen):
    _, cameras, _, _, slots, horizon = WORKLOADS[a.workload]
    values = [t for block in blocks for t in block]
    medians = [statistics.median(block) for block in blocks]
    row = {"workload": a.workload, "about": "all cameras and prompt slots computed", "horizon": horizon,
           "calls": len(values), "prefix_tokens": cameras * (IMAGE // 14) ** 2 + slots}
    row.update(percentiles(values))
    row["hz"] = 1e3 / row["p50_ms"]
    row["block_p50_ms"] = medians
    row["spread_percent"] = (max(medians) - min(medians)) / row["p50_ms"] * 100
    row["first_call_ms"] = first
    row["stages"] = []
    row["conditions"] = seen.get("conditions") or {"source": "", "clock_mhz": {}, "throttle": []}
    row["energy"] = {"reason": ABSENT}
    if seen.get("mean_w"):
        joule = seen["mean_w"] * row["p50_ms"] * 1e-3
        row["energy"] = {"mean_w": seen["mean_w"], "j_per_sample": joule, "samples_per_j": 1 / joule}
    return row


def batch_row(batch, first, blocks, seen, memory):
    values = [t for block in blocks for t in block]
    row = {"batch": batch, "status": "ok", "calls": len(values), "first_call_ms": first}
    row.update(percentiles(values))
    row["samples_per_s"] = batch / row["p50_ms"] * 1e3
    row["j_per_sample"] = seen["mean_w"] / row["samples_per_s"] if seen.get("mean_w") else None
    if memory:
        row["memory_bytes"] = memory
    return row


def run(a, device, peer, make_call):
    """Times every batch and writes report.json.

    device: synchronize(), check(actions, shape), out_of_memory (exception types), release(), memory() in bytes or
            None, watch() (a context that gives a dict: conditions, mean_w), machine() (keys of the report's machine).
    peer: name, version, backend, precision, notes.
    make_call(batch) gives a function of no arguments that runs one call and gives its actions.
    """
    headline, rows = None, []
    for batch in a.batch:
        try:
            call = make_call(batch)
            first, actions = timed(call, device)
            device.check(actions, (batch, WORKLOADS[a.workload][5], ACTION_DIM))
            for _ in range(a.warmup):
                call()
            with device.watch() as seen:
                blocks = [[timed(call, device)[0] for _ in range(a.n)] for _ in range(a.blocks)]
        except device.out_of_memory as e:
            device.release()
            rows.append({"batch": batch, "status": "out of memory", "reason": str(e)[:200] or "out of memory"})
            continue
        rows.append(batch_row(batch, first, blocks, seen, device.memory()))
        if batch == 1:
            headline = [headline_row(a, first, blocks, seen)]
    absent = {"reason": ABSENT}
    script = re.sub(r".*/(?=tools/)", "", os.path.abspath(sys.argv[0]))
    report = {
        "format": "pi0-report", "version": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": f"{peer['name']} {peer['version']}",
        "command": " ".join(["python", script] + sys.argv[1:]),
        "settings": {"steps": a.steps, "blocks": a.blocks, "warmup": a.warmup,
                     "weights": "random initialisation", "notes": peer["notes"]},
        "machine": {**device.machine(), "backend": peer["backend"], "precision": peer["precision"],
                    "processors": os.cpu_count() or 1,
                    "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}"},
        "ceilings": {"flops_per_s": None, "bytes_per_s": None, "source": "not given"},
        "headline": headline or absent, "batch": {"workload": a.workload, "rows": rows},
        "power": absent, "ladder": absent, "breakdown": absent,
    }
    os.makedirs(a.out, exist_ok=True)
    path = os.path.join(a.out, "report.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(report, f, indent=1)
        f.write("\n")
    for row in rows:
        head = f"{peer['name']} {a.workload} ×{row['batch']}: "
        if row["status"] == "ok":
            print(f"{head}p50 {row['p50_ms']:.3f} ms, p99 {row['p99_ms']:.3f} ms, min {row['min_ms']:.3f} ms, "
                  f"{row['samples_per_s']:.2f} samples/s; first call {row['first_call_ms'] / 1e3:.1f} s")
        else:
            print(f"{head}{row['status']}")
    print(path)
