"""Latency and throughput of inference, and the rounding differences between batch sizes.

Uses a checkpoint of the released shape with random weights (``--size full`` needs a GPU with 12 GB or more, ``tiny``
runs anywhere), or one on disk::

    python benchmarks/inference.py --size full --attention flash_attention_2 --attention eager --batch 1 2 4 8 16
    python benchmarks/inference.py --checkpoint path/to/checkpoint --batch 1 8

Requests are LIBERO's: two images of 256 by 256 and an instruction. A time is that of a whole pass, processor included,
after a warm-up. "differs by" is the largest difference of any action from the same request in a batch of its own.

``--trace FILE`` writes the latencies of single requests for ``evalkit run --delay trace:FILE``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evalkit.errors import EvalkitError
from evalkit.observation import Observation
from evalkit.policies.weights import locate
from evalkit.policies.xiaomi_robotics_0.inference import Inference
from evalkit.policies.xiaomi_robotics_0.loading import Attention, load
from evalkit.policies.xiaomi_robotics_0.requests import ModelRequest, presets
from evalkit.testing import build_tiny_vla

INSTRUCTIONS = ("pick up the milk", "put both moka pots on the stove", "open the middle drawer of the cabinet")


def requests(count: int) -> list[ModelRequest]:
    """Return requests with random images, plausible states and instructions of different lengths."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        images = {name: rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for name in ("agentview", "wrist")}
        state = {"eef_pos": rng.normal(size=3), "eef_quat": np.array([1.0, 0, 0, 0]), "gripper_qpos": np.zeros(2)}
        observation = Observation(INSTRUCTIONS[number % len(INSTRUCTIONS)], images, state)
        found.append(presets()["libero"].build_request(observation, "libero_all"))
    return found


def passes(inference: Inference, batch: list[ModelRequest], repeats: int) -> list[float]:
    """Return the seconds of each of ``repeats`` passes, after a warm-up."""
    inference.chunks(batch)
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        inference.chunks(batch)  # copies the actions to the host, so the device has finished
        took.append(time.perf_counter() - began)
    return took


def measure(folder: Path, attention: Attention, batches: list[int], repeats: int, dtype: Any) -> list[str]:
    """Return the rows of the table for one attention implementation."""
    loaded = load(locate(str(folder), None, True), attention, dtype, "auto")
    alone = Inference(loaded, "libero_all").chunks(requests(max(batches)))
    rows = []
    for size in batches:
        for fixed in (False, True):
            inference = Inference(loaded, "libero_all", max_batch=size, batch_invariant=fixed)
            batch = requests(size)
            took = passes(inference, batch, repeats)
            median, late = statistics.median(took), sorted(took)[int(len(took) * 0.9)]
            difference = max(float(np.abs(a - b).max()) for a, b in zip(alone, inference.chunks(batch), strict=False))
            rows.append(
                f"| {loaded.metadata['attention']} | {loaded.metadata['dtype']} | {size} | {'yes' if fixed else 'no'} "
                f"| {median * 1e3:.1f} | {late * 1e3:.1f} | {size / median:.1f} | {difference:.1g} |"
            )
    return rows


def trace(folder: Path, attention: Attention, dtype: Any, device: str) -> dict[str, Any]:
    """Return latencies of single requests in ms, as ``evalkit run --delay trace:FILE`` reads them."""
    loaded = load(locate(str(folder), None, True), attention, dtype, "auto")
    took = passes(Inference(loaded, "libero_all"), requests(1), 100)
    return {"latency_ms": [round(seconds * 1000, 3) for seconds in took], "device": device, **loaded.metadata}


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a directory; one with random weights is built by default")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--attention", action="append", choices=("flash_attention_2", "sdpa", "eager"))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write the latencies of single requests here")
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}; torch {torch.__version__}; Python {platform.python_version()}\n")
    print("| attention | dtype | batch | fixed shapes | ms (median) | ms (90 %) | requests/s | differs by |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.checkpoint or build_tiny_vla(Path(temporary) / options.size, size=options.size)
        if options.trace:
            options.trace.write_text(
                json.dumps(trace(folder, (options.attention or ["auto"])[0], options.dtype, device)) + "\n"
            )
        for attention in options.attention or ["auto"]:
            try:
                print("\n".join(measure(folder, attention, options.batch, options.repeats, options.dtype)), flush=True)
            except EvalkitError as error:
                print(f"| {attention} | {error} |")


if __name__ == "__main__":
    main()
