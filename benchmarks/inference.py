"""How long does an inference take, how many a second fit through at once, and how far do batches round otherwise?

With a checkpoint of the released shape that has random weights (``--size full`` wants a GPU with 12 GB or more,
``tiny`` runs anywhere), or with one on disk::

    python benchmarks/inference.py --size full --attention flash_attention_2 --attention sdpa --batch 1 2 4 8 16
    python benchmarks/inference.py --checkpoint path/to/checkpoint --batch 1 8

Requests are LIBERO's: two images of 256 by 256 and an instruction. A time is that of a whole pass, processor included,
after a warm-up. "differs by" is the largest difference of any action from the same request asked alone.

``--trace FILE`` keeps the latencies of single requests for ``evalkit run --delay trace:FILE``.
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
    """Random pictures, plausible states, instructions of different lengths."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        images = {name: rng.integers(0, 256, (256, 256, 3), dtype=np.uint8) for name in ("agentview", "wrist")}
        state = {"eef_pos": rng.normal(size=3), "eef_quat": np.array([1.0, 0, 0, 0]), "gripper_qpos": np.zeros(2)}
        seen = Observation(INSTRUCTIONS[number % len(INSTRUCTIONS)], images, state)
        made.append(presets()["libero"].build_request(seen, "libero_all"))
    return made


def passes(inference: Inference, asked: list[ModelRequest], repeats: int) -> list[float]:
    """Seconds of each of so many passes."""
    inference.chunks(asked)
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        inference.chunks(asked)  # brings the actions to the host, so the device has finished
        took.append(time.perf_counter() - began)
    return took


def measure(folder: Path, attention: Attention, batches: list[int], repeats: int, dtype: Any) -> list[str]:
    """The rows of the table for one attention implementation."""
    loaded = load(locate(str(folder), None, True, folder.name), attention, dtype, "auto")
    alone = Inference(loaded, "libero_all").chunks(requests(max(batches)))
    rows = []
    for size in batches:
        for fixed in (False, True):
            inference = Inference(loaded, "libero_all", max_batch=size, batch_invariant=fixed)
            asked = requests(size)
            took = passes(inference, asked, repeats)
            middle, late = statistics.median(took), sorted(took)[int(len(took) * 0.9)]
            off = max(float(np.abs(a - b).max()) for a, b in zip(alone, inference.chunks(asked), strict=False))
            rows.append(
                f"| {loaded.metadata['attention']} | {loaded.metadata['dtype']} | {size} | {'yes' if fixed else 'no'} "
                f"| {middle * 1e3:.1f} | {late * 1e3:.1f} | {size / middle:.1f} | {off:.1g} |"
            )
    return rows


def trace(folder: Path, attention: Attention, dtype: Any, device: str) -> dict[str, Any]:
    """Latencies of single requests in ms, as ``evalkit run --delay trace:FILE`` reads them."""
    loaded = load(locate(str(folder), None, True, folder.name), attention, dtype, "auto")
    took = passes(Inference(loaded, "libero_all"), requests(1), 100)
    return {"latency_ms": [round(seconds * 1000, 3) for seconds in took], "device": device, **loaded.metadata}


def main() -> None:
    """Prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a directory; one is built where this is absent")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--attention", action="append", choices=("flash_attention_2", "sdpa", "eager"))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write the latencies of single requests here")
    given = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{device}; torch {torch.__version__}; Python {platform.python_version()}\n")
    print("| attention | dtype | batch | fixed shapes | ms (median) | ms (90 %) | requests/s | differs by |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.checkpoint or build_tiny_vla(Path(temporary) / given.size, size=given.size)
        if given.trace:
            given.trace.write_text(
                json.dumps(trace(folder, (given.attention or ["auto"])[0], given.dtype, device)) + "\n"
            )
        for attention in given.attention or ["sdpa"]:
            try:
                print("\n".join(measure(folder, attention, given.batch, given.repeats, given.dtype)), flush=True)
            except EvalkitError as error:
                print(f"| {attention} | {error} |")


if __name__ == "__main__":
    main()
