# SPDX-License-Identifier: Apache-2.0
"""peer_torch: the parts of the two scripts that need PyTorch: inputs on the host, the device's clock and memory,
and what nvidia-smi sees of the card during the calls."""
import contextlib
import platform
import subprocess
import threading

import torch

import peer_report as pr

VOCABULARY = 257152
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
# bits of NVML's throttle reasons, named as pi0 bench names them (cli/power.c)
THROTTLE = {0x2: "application clocks", 0x4: "power cap", 0x8: "hardware", 0x10: "sync boost",
            0x20: "thermal, software", 0x40: "thermal, hardware", 0x80: "power brake", 0x100: "display clocks"}


def host_inputs(workload, batch):
    """(pixels by camera u8 [B,H,W,3], state, prompt ids, prompt mask) in host memory, from a fixed seed."""
    _, cameras, _, tokens, slots, _ = pr.WORKLOADS[workload]
    g = torch.Generator().manual_seed(0)
    pixels = {name: torch.randint(0, 256, (batch, pr.IMAGE, pr.IMAGE, 3), generator=g, dtype=torch.uint8)
              for name in CAMERAS[:cameras]}
    mask = torch.zeros(batch, slots, dtype=torch.bool)
    mask[:, :tokens] = True
    state = torch.rand(batch, pr.ACTION_DIM, generator=g) * 2 - 1
    return pixels, state, torch.randint(0, VOCABULARY, (batch, slots), generator=g), mask


def host_noise(workload, batch):
    horizon = pr.WORKLOADS[workload][5]
    return torch.randn(batch, horizon, pr.ACTION_DIM, generator=torch.Generator().manual_seed(1))


class Device:
    out_of_memory = (torch.cuda.OutOfMemoryError, MemoryError)

    def __init__(self, name):
        self.cuda = name.startswith("cuda")
        if self.cuda and not torch.cuda.is_available():
            raise SystemExit(f"--device {name}: PyTorch {torch.__version__} sees no GPU")
        self.properties = torch.cuda.get_device_properties(name) if self.cuda else None

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()

    def check(self, actions, shape):
        if tuple(actions.shape) != shape or not torch.isfinite(actions).all():
            raise SystemExit(f"actions: found {tuple(actions.shape)}, expected finite values of shape {shape}")

    def release(self):
        if self.cuda:
            torch.cuda.empty_cache()

    def memory(self):
        """The highest amount since the last watch() began."""
        return torch.cuda.max_memory_allocated() if self.cuda else None

    def machine(self):
        if not self.cuda:
            return {"device": platform.processor() or "cpu", "threads": torch.get_num_threads()}
        out = {"device": self.properties.name, "threads": torch.get_num_threads(),
               "isa": f"sm_{self.properties.major}{self.properties.minor}"}
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            text = subprocess.run(self.smi("driver_version,power.limit,clocks.max.sm,clocks.max.mem"), check=True,
                                  capture_output=True, text=True, timeout=20).stdout
            driver, watt, sm, memory = [v.strip() for v in text.split(",")]
            out.update(driver=driver, power_limit_w=float(watt), max_clock_mhz=float(sm),
                       max_memory_clock_mhz=float(memory))
        return out

    def smi(self, query):
        return ["nvidia-smi", f"--id=GPU-{self.properties.uuid}", f"--query-gpu={query}",
                "--format=csv,noheader,nounits"]

    @contextlib.contextmanager
    def watch(self):
        """Gives a dict that is filled when the context ends: the card's clock, temperature, throttling and power."""
        seen, lines, smi = {}, [], None
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            with contextlib.suppress(OSError):
                smi = subprocess.Popen(
                    self.smi("clocks.sm,clocks.mem,temperature.gpu,power.draw.instant,clocks_event_reasons.active")
                    + ["--loop-ms=250"],
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                reader = threading.Thread(target=lambda: lines.extend(smi.stdout), daemon=True)
                reader.start()
        try:
            yield seen
        finally:
            if smi:
                smi.terminate()
                smi.wait()
                reader.join()
                seen.update(summary(lines))


def summary(lines):
    """What the samples of one watch() say; {} where there are none."""
    samples = []
    for line in lines:
        with contextlib.suppress(ValueError):
            sm, memory, celsius, watt, reasons = [v.strip() for v in line.split(",")]
            samples.append((float(sm), float(memory), float(celsius), float(watt), int(reasons, 16)))
    if not samples:
        return {}
    sm, memory, celsius, watt, reasons = zip(*samples)
    bits = 0
    for r in reasons:
        bits |= r
    return {"mean_w": sum(watt) / len(watt),
            "conditions": {"source": "nvidia-smi every 250 ms", "samples": len(samples),
                           "clock_mhz": {"min": min(sm), "mean": sum(sm) / len(sm), "max": max(sm)},
                           "memory_clock_mhz": max(memory),
                           "temperature_min_c": min(celsius), "temperature_max_c": max(celsius),
                           "throttle": [name for bit, name in THROTTLE.items() if bits & bit]}}
