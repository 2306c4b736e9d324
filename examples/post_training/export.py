"""Turn weights of the authors' post-training code into a checkpoint directory that evalkit loads.

The post-training code of Xiaomi-Robotics-0 (``xr0``) saves weights with DeepSpeed, without configuration, processor or
model code. This script adds those of a released checkpoint, whose parameters have the same names::

    python examples/post_training/export.py last.ckpt/checkpoint/mp_rank_00_model_states.pt --async-train \
        --base path/to/Xiaomi-Robotics-0 --robot-type my_robot --statistics statistics.json --out my-checkpoint
    evalkit run ... --checkpoint my-checkpoint:preset=libero,robot_type=my_robot --execution prefix --delay 2

``statistics.json`` holds the actions' ``mean`` and ``std``, (T, 32) each, as in the training configuration. No code in
the file of weights is run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open

TIED = "vlm.lm_head.weight"  # the same tensor as the embedding; released checkpoints leave it out


def read_weights(file: Path) -> dict[str, Any]:
    """Return the tensors by the released checkpoints' names."""
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    tensors = content.get("module", content.get("state_dict", content))
    named = {name.removeprefix("model."): tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    named.pop(TIED, None)
    return named


def names_in(base: Path) -> set[str]:
    """Return the names of a checkpoint directory's tensors."""
    names: set[str] = set()
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names.update(tensors.keys())
    return names - {TIED}


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}, indent=1) + "\n", encoding="utf-8")


def export(options: argparse.Namespace) -> None:
    """Write the directory. Exits with one line if the weights do not fit the base."""
    if options.out.exists():
        sys.exit(f"{options.out} exists: name a new directory")
    weights, wanted = read_weights(options.weights), names_in(options.base)
    if missing := sorted(wanted - weights.keys()):
        sys.exit(f"{options.weights}: lacks {len(missing)} tensors of {options.base}, {missing[0]} among them")
    if more := sorted(weights.keys() - wanted):
        sys.exit(f"{options.weights}: has {len(more)} tensors that {options.base} has not, {more[0]} among them")
    statistics = json.loads(options.statistics.read_text(encoding="utf-8"))
    shutil.copytree(options.base, options.out, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin", ".git*"))
    save_torch_state_dict(weights, options.out)
    edit(options.out / "config.json", async_train=options.async_train, local_window=options.local_window)
    action_config = {options.robot_type: {name: statistics[name] for name in ("mean", "std")}}
    edit(options.out / "preprocessor_config.json", action_config=action_config)


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="mp_rank_00_model_states.pt, or another file of torch.save")
    parser.add_argument("--base", type=Path, required=True, help="directory of a released checkpoint")
    parser.add_argument("--robot-type", required=True, help="name for the robot's action statistics")
    parser.add_argument("--statistics", type=Path, required=True, help="JSON file with mean and std, (T, 32) each")
    parser.add_argument("--async-train", action="store_true", help="the weights were trained with prefixes")
    parser.add_argument("--local-window", type=int, default=4, help="the attention window of the training")
    parser.add_argument("--out", type=Path, required=True, help="the new directory")
    export(parser.parse_args())


if __name__ == "__main__":
    main()
