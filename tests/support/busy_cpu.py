"""Keeps a CPU busy until it is stopped (``kill``), at the lowest priority: what others do not use.

    for cpu in 0 1; do setsid python tests/support/busy_cpu.py $cpu & done

A session of its own (``setsid``), since Linux shares CPUs out to sessions first where it groups by them (sched(7),
autogroup): in one with others' processes a third of the servers' time would go here, as one of the lowest weight it is
a sixtieth.

Where virtual CPUs share a processor, one is up to 1.7 times as fast while its neighbour sleeps, so what a step of a
vLLM server costs there hangs on what other servers do at that moment. With no CPU ever asleep it does not
(`docs/going-live.md`, Measured). What it computes is what a small model's decoding is: products of one matrix after
the other, 240 MB in all, with a few vectors.
"""

import argparse
import os
import sys
from pathlib import Path

import torch

NUM_LAYERS, HIDDEN, BATCH = 90, 576, 4


def keep_busy(cpu: int) -> None:
    """Never returns."""
    if os.getsid(0) != os.getpid():
        sys.exit("needs a session of its own: setsid python ...")
    if (group := Path("/proc/self/autogroup")).exists():
        group.write_text("19")
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    torch.set_num_threads(1)
    layers = [torch.randn(4 * HIDDEN, HIDDEN, dtype=torch.bfloat16) for _ in range(NUM_LAYERS)]
    vectors = torch.randn(BATCH, HIDDEN, dtype=torch.bfloat16)
    with torch.inference_mode():
        while True:
            for layer in layers:
                torch.nn.functional.linear(vectors, layer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("cpu", type=int)
    keep_busy(parser.parse_args().cpu)
