#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""benchmark_tables.py [--check] FILE.md...: writes the tables of the kept measurements into pages.

A table stands between two lines of the page and is made from bench/results alone:

    <!-- table NAME FILE [WORD…] -->
    <!-- end -->

NAME is a function table_NAME below, FILE is relative to bench/results and may be absent. With --check nothing is
written: the exit code is 1 if a page is not what its measurements say. Standard library only."""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
MODELS = {"pi0-788": ("π0", "3, one masked"), "pi0-532": ("π0", "2, the masked one skipped"),
          "pi0-799-h50": ("π0", "3"), "pi05-968-h50": ("π0.5", "3")}


def number(value, digits):
    return "–" if value is None else f"{value:.{digits}f}"


def significant(value, digits=3):
    """100.4 → 100, 9.66 → 9.66: `digits` of them, none lost before the point."""
    if value is None:
        return "–"
    places = digits - 1
    while places > 0 and abs(value) >= 10 ** (digits - places):
        places -= 1
    return f"{value:.{places}f}"


def si(value, unit=""):
    if value is None:
        return "–"
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")):
        if abs(value) >= scale:
            return f"{significant(value / scale)} {prefix}{unit}".rstrip()
    return f"{value:.3g} {unit}".rstrip()


def grid(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def report(name):
    return json.loads((RESULTS / name).read_text())


def rows_of(name):
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines() if line]


def newest(rows, key):
    """The last row of each value of key(row), in the order of first appearance."""
    kept = {}
    for row in rows:
        kept[key(row)] = row
    return list(kept.values())


def reason(section):
    """What stands in place of a section that was not measured; None where it was."""
    absent = isinstance(section, dict) and "reason" in section and not {"rows", "kernels"} & section.keys()
    return [f"Not measured: {section['reason']}."] if absent else None


def table_picture(name, *words):
    """A chart of docs/benchmark, where there is one; the words describe it."""
    there = (ROOT / "docs" / "benchmark" / f"{name}.svg").exists()
    return [f"![{' '.join(words)}](benchmark/{name}.svg)"] if there else ["No picture yet."]


def table_run(name):
    doc = report(name)
    machine, peak = doc["machine"], doc["ceilings"]
    power = f", power limit {machine['power_limit_w']:.0f} W" if "power_limit_w" in machine else ""
    driver = f", driver {machine['driver']}" if "driver" in machine else ""
    return [f"`{doc['command']}`", "",
            f"{machine['device']}{driver}{power}. Commit {doc['commit']}, {doc['date'][:10]}. Ceilings: "
            f"{si(peak['flops_per_s'], 'FLOP/s')} and {si(peak['bytes_per_s'], 'B/s')} ({peak['source']})."]


def stage_ms(row):
    return [significant(stage["p50_ms"]) for stage in row["stages"]]


def table_headline(name):
    rows = report(name)["headline"]
    return reason(rows) or grid(
        ["workload", "prefix tokens", "horizon", "calls", "p50", "p95", "p99", "min", "Hz", "spread %", "vision", "prefix", "denoise"],
        [[f"`{r['workload']}`", str(r["prefix_tokens"]), str(r["horizon"]), str(r["calls"])]
         + [number(r[k], 2) for k in ("p50_ms", "p95_ms", "p99_ms", "min_ms")]
         + [number(r["hz"], 1), number(r["spread_percent"], 2)] + stage_ms(r) for r in rows])


def table_latency(name):
    rows = {r["workload"]: r for r in rows_of(name) if r["batch"] == 1}
    return grid(["workload", "model", "cameras computed", "prefix tokens", "horizon", "calls", "p50", "p99", "min", "Hz", "commit"],
                [[f"`{w}`", *MODELS[w], str(rows[w]["prefix_tokens"]), str(rows[w]["horizon"]), str(rows[w]["n"]),
                  number(rows[w]["p50_ms"], 2), number(rows[w]["p99_ms"], 2), number(rows[w]["min_ms"], 2),
                  number(rows[w]["samples_per_s"], 1), rows[w]["commit"]] for w in MODELS if w in rows])


def table_stages(name):
    rows = report(name)["headline"]
    return reason(rows) or grid(
        ["workload", "stage", "p50 ms", "p99 ms", "FLOP", "bytes", "FLOP/s", "B/s", "floor ms", "bound by", "floor %"],
        [[f"`{r['workload']}`", s["name"], number(s["p50_ms"], 3), number(s["p99_ms"], 3), si(s["flops"]), si(s["bytes"], "B"),
          si(s["flops_per_s"]), si(s["bytes_per_s"], "B/s"), number(s["floor_ms"], 3), s["bound"] or "–",
          number(s["floor_ms"] and s["floor_ms"] / s["p50_ms"] * 100, 0)] for r in rows for s in r["stages"]])


def table_conditions(name):
    rows = report(name)["headline"]
    return reason(rows) or grid(
        ["workload", "MHz min", "mean", "max", "°C min", "max", "throttled by", "W", "J per sample"],
        [[f"`{r['workload']}`"] + [number(r["conditions"]["clock_mhz"].get(k), 0) for k in ("min", "mean", "max")]
         + [number(r["conditions"].get(k), 0) for k in ("temperature_min_c", "temperature_max_c")]
         + [", ".join(r["conditions"]["throttle"]) or "none", number(r["energy"].get("mean_w"), 0),
            number(r["energy"].get("j_per_sample"), 2)] for r in rows])


def table_batch(name):
    section = report(name)["batch"]
    return reason(section) or grid(
        ["batch", "calls", "p50 ms", "p99 ms", "samples/s", "ms per sample", "vision", "prefix", "denoise", "memory", "J per sample"],
        [[str(r["batch"]), str(r["calls"]), significant(r["p50_ms"], 4), significant(r["p99_ms"], 4), number(r["samples_per_s"], 1),
          number(r["p50_ms"] / r["batch"], 2)] + [significant(r[k]) for k in ("vision_ms", "prefix_ms", "denoise_ms")]
         + [si(r["memory_bytes"], "B"), number(r.get("j_per_sample"), 2)] if r["status"] == "ok"
         else [str(r["batch"]), f"{r['status']}: {r['reason']}"] + [""] * 9 for r in section["rows"]])


def table_rows(name, workload):
    rows = sorted(newest([r for r in rows_of(name) if r["workload"] == workload], lambda r: r["batch"]), key=lambda r: r["batch"])
    return grid(["batch", "calls", "p50 ms", "p95 ms", "p99 ms", "min ms", "samples/s", "vision", "prefix", "denoise", "MHz", "commit"],
                [[str(r["batch"]), str(r["n"])] + [significant(r[k], 4) for k in ("p50_ms", "p95_ms", "p99_ms", "min_ms")]
                 + [number(r["samples_per_s"], 1)] + [significant(r[k]) for k in ("vision_ms", "prefix_ms", "denoise_ms")]
                 + [number(r.get("conditions", {}).get("clock_mhz", {}).get("mean"), 0), r["commit"]] for r in rows])


def table_processors(name, workload):
    rows = [r for r in rows_of(name) if r["workload"] == workload and r["batch"] == 1]
    return grid(["processor", "threads", "calls", "p50 ms", "min ms", "vision", "prefix", "denoise", "commit"],
                [[r["device"], str(r["threads"]), str(r["n"])] + [significant(r[k], 4) for k in ("p50_ms", "min_ms")]
                 + [significant(r[k]) for k in ("vision_ms", "prefix_ms", "denoise_ms")] + [r["commit"]]
                 for r in newest(rows, lambda r: (r["device"], r["threads"]))])


def table_power(name):
    section = report(name)["power"]
    if reason(section):
        return reason(section)
    text = f"`{section['workload']}`, one sample a call. Energy: {section['source']}; idle with the engine open {number(section['idle_w'], 0)} W."
    return [text, ""] + grid(
        ["offered Hz", "achieved", "calls", "late", "p50 ms", "p99 ms", "W", "J per sample", "above idle", "samples per J"],
        [["back to back" if r["offered_hz"] is None else number(r["offered_hz"], 0), number(r["achieved_hz"], 1), str(r["calls"]),
          str(r["late"]), number(r["p50_ms"], 2), number(r["p99_ms"], 2), number(r["mean_w"], 0), number(r["j_per_sample"], 2),
          number(r["j_per_sample_net"], 2), number(r["samples_per_j"], 3)] for r in section["rows"]])


def check_text(check):
    if "reason" in check:
        return "–", "not checked"
    return f"{check['rel_l2']:.2e}", ("within " if check["pass"] else "NOT within ") + check["case"]


def table_ladder(name):
    section = report(name)["ladder"]
    if reason(section):
        return reason(section)
    done = [r for r in section["rows"] if r["status"] == "ok"]
    lines = [f"`{section['workload']}`.", ""] + grid(
        ["rung", "p50 ms", "change ms", "speed-up", "actions' rel. L2", "bound"],
        [[r["name"], number(r["p50_ms"], 3), "" if r is done[0] else f"{r['delta_ms']:+.3f}".replace("-", "−"),
          number(r["speedup"], 2), *check_text(r["check"])] for r in done])
    for r in section["rows"]:
        if r["status"] != "ok":
            lines += ["", f"Not measured: {r['name']} ({r['reason']})."]
    return lines


def breakdown_cells(r):
    return [str(r["launches"]), number(r["ms"], 3), number(r["share_percent"], 1), si(r["flops_per_s"]),
            si(r["bytes_per_s"], "B/s"), number(r["floor_percent"], 0)]


def table_breakdown(name):
    section = report(name)["breakdown"]
    if reason(section):
        return reason(section)
    heads = ["launches", "ms", "share %", "FLOP/s", "B/s", "floor %"]
    text = f"`{section['workload']}`, {section['source']}; the traced call takes {number(section['span_ms'], 2)} ms."
    return [text, ""] + grid(["category"] + heads, [[r["category"]] + breakdown_cells(r) for r in section["categories"]]) + [""] + grid(
        ["kernel", "stage", "op"] + heads,
        [[f"`{r['kernel'][:40]}`", r["stage"] or "–", r["op"] or r["category"]] + breakdown_cells(r) for r in section["kernels"]
         if r["share_percent"] >= 0.5])


def table_kernels(name):
    lines = []
    for row in rows_of(name):
        seen = row.get("conditions", {}).get("clock_mhz", {})
        lines += ["" if lines else None, f"`{row['workload']}`, batch {row['batch']}, commit {row['commit']}, "
                  f"{row['date'][:10]}, {number(seen.get('mean'), 0)} MHz:", ""]
        lines += grid(["op", "m × n × k", "in a call", "ours µs", "cuBLASLt µs", "ratio", "FLOP/s", "B/s", "floor µs", "floor %",
                       "kernel", "besides"],
                      [[k["op"], " × ".join(str(k[i]) for i in "mnk" if k[i]), str(k["count"]), significant(k["us"]),
                        significant(k["library_us"]), number(k["library_us"] and k["library_us"] / k["us"], 2),
                        si(k["flops_per_s"]) if k["flops"] else "–", si(k["bytes_per_s"], "B/s"),
                        significant(k["floor_us"]), number(k["floor_percent"], 0), f"`{k['kernel']}`", k["also"] or "–"]
                       for k in row["kernels"]])
    return [line for line in lines if line is not None]


def table_peers(workload, ours, pattern):
    """Our newest row, then the reports of tools/peers that fit the pattern."""
    names = sorted(path.name for path in RESULTS.glob(pattern))
    own = [r for r in rows_of(ours) if r["workload"] == workload and r["batch"] == 1][-1]
    if not names:
        raise FileNotFoundError(pattern)
    rows = [["pi0.c", own["commit"], "", "", own["precision"], str(own["n"])]
            + [number(own[k], 2) for k in ("p50_ms", "p99_ms", "min_ms")] + ["1.0", "", "", ""]]
    for doc in map(report, names):
        r, batch = doc["headline"][0], doc["batch"]["rows"][0]
        if r["workload"] != workload:
            continue
        name, version = doc["commit"].split(" ", 1)
        rows.append([name, version, doc["machine"]["backend"], doc["settings"]["notes"].rpartition("; ")[2],
                     doc["machine"]["precision"], str(r["calls"])]
                    + [number(r[k], 2) for k in ("p50_ms", "p99_ms", "min_ms")]
                    + [number(r["p50_ms"] / own["p50_ms"], 1), number(r["energy"].get("mean_w"), 0),
                       number(r["energy"].get("j_per_sample"), 2), si(batch.get("memory_bytes"), "B")])
    return grid(["", "version", "runs on", "mode", "precision", "calls", "p50 ms", "p99 ms", "min ms", "× pi0.c", "W", "J per sample", "memory"], rows)


def rebuilt(text):
    def table(match):
        words = match.group(2).split()
        try:
            lines = globals()["table_" + words[0]](*words[1:])
        except FileNotFoundError:
            lines = ["Not measured yet."]
        return match.group(1) + "\n".join(lines) + "\n" + match.group(3)
    return re.sub(r"(<!-- table (.*?) -->\n).*?(<!-- end -->)", table, text, flags=re.S)


def main(args):
    stale = 0
    for name in [a for a in args if a != "--check"]:
        path = pathlib.Path(name)
        text = path.read_text()
        new = rebuilt(text)
        if new == text:
            continue
        stale = 1
        if "--check" in args:
            print(f"{name}: its tables are not those of bench/results; tools/benchmark_tables.py {name} writes them")
        else:
            path.write_text(new)
    return stale if "--check" in args else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
