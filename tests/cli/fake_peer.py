# SPDX-License-Identifier: Apache-2.0
"""fake_peer.py: tools/peers/peer_report.py over a model that only sleeps, on a device that has room for 8 samples."""
import contextlib
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "peers"))
import peer_report as pr


class Device:
    out_of_memory = MemoryError
    released = 0

    def synchronize(self):
        pass

    def check(self, actions, shape):
        assert actions == shape, (actions, shape)

    def release(self):
        self.released += 1

    def memory(self):
        return 1 << 20

    def machine(self):
        return {"device": "fake"}

    @contextlib.contextmanager
    def watch(self):
        seen = {}
        yield seen
        seen.update(mean_w=50.0, conditions={"source": "fake", "clock_mhz": {"min": 1.0, "mean": 1.0, "max": 1.0},
                                             "throttle": []})


def make_call(batch):
    if batch > 8:
        raise MemoryError("no room")

    def call():
        time.sleep(0.001 * batch)
        return (batch, pr.WORKLOADS[arguments.workload][5], pr.ACTION_DIM)

    return call


arguments = pr.arguments(__doc__)
device = Device()
pr.run(arguments, device, {"name": "fake", "version": pr.source_version("no-such-package", pr),
                           "backend": "none", "precision": "f32", "notes": "sleeps"}, make_call)
assert device.released == sum(b > 8 for b in arguments.batch)
assert pr.percentile([3, 1, 2], 0.5) == 2 and pr.percentile(list(range(1, 101)), 0.99) == 99
