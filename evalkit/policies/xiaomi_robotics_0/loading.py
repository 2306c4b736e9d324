"""Loading a released checkpoint the documented way: AutoModel and AutoProcessor, with the code that comes with it.

transformers and torch are imported here and only here, when a checkpoint is loaded.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import EnvironmentProblem, PolicyProblem
from evalkit.policies.weights import CheckpointFiles

EXTRA = "pip install torch 'transformers>=4.57.1,<4.58' pillow transforms3d"
Attention = Literal["auto", "flash_attention_2", "sdpa", "eager"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    Attributes:
        model: the remote code's model, in evaluation mode, on its device.
        processor: its processor, with ``tokenizer``.
        facts: device, dtype, attention and library versions; JSON values.
    """

    model: Any
    processor: Any
    metadata: dict[str, Any]


def missing_libraries() -> str | None:
    """What has to be installed before anything can be loaded, in words, or None."""
    for name in ("torch", "transformers", "PIL", "transforms3d"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: {EXTRA}"
    version = importlib.metadata.version("transformers")
    if not version.startswith("4.57."):
        return f"transformers {version} is installed, and the released code needs 4.57: {EXTRA}"
    return None


def load(located: CheckpointFiles, attention: Attention, dtype: Dtype, device: str) -> Loaded:
    """Loads model and processor from a directory, without touching the network.

    Args:
        located: the files.
        attention: the implementation, or auto: the first of flash, sdpa and eager that this machine and model take.
        dtype: of weights and arithmetic, or auto: bfloat16 (as released) on a GPU, float32 on a CPU.
        device: as torch names it, or auto: the GPU where there is one.

    Raises:
        EnvironmentProblem: a library, or the device, is missing.
        PolicyProblem: the weights, the code or the processor cannot be loaded.
    """
    missing = missing_libraries()
    if missing:
        raise EnvironmentProblem(missing)
    import torch

    place = _device(device)
    kind = dtype if dtype != "auto" else "bfloat16" if place.type == "cuda" else "float32"
    model, used, passed_over = _model(located, _candidates(attention, place.type), getattr(torch, kind))
    model = model.to(place).eval()
    metadata: dict[str, Any] = {"device": _name(place), "dtype": kind, "attention": used, "libraries": _versions()}
    if place.type == "cpu":
        metadata["threads"] = torch.get_num_threads()
    else:
        metadata["cuda"] = {
            "version": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    if passed_over:
        metadata["attention_passed_over"] = passed_over
    return Loaded(model, _processor(located), metadata)


def _versions() -> dict[str, str]:
    """Every library that could change a chunk's bits, where it is installed."""
    named = ("torch", "transformers", "tokenizers", "safetensors", "pillow", "numpy", "transforms3d")
    optional = ("torchvision", "flash-attn")  # the processor's and the attention's code paths
    found = {}
    for name in (*named, *optional):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _device(name: str) -> Any:
    import torch

    try:
        place = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().splitlines()[0]
        raise EnvironmentProblem(f"device {name!r} cannot be used here: {why}") from error
    return place


def _name(place: Any) -> str:
    import torch

    return f"{place} ({torch.cuda.get_device_name(place)})" if place.type == "cuda" else str(place)


def _candidates(attention: Attention, device_type: str) -> list[str]:
    """What to try, in order: flash attention runs on GPUs alone."""
    if attention != "auto":
        return [attention]
    return (["flash_attention_2"] if device_type == "cuda" else []) + ["sdpa", "eager"]


def _model(located: CheckpointFiles, candidates: list[str], dtype: Any) -> tuple[Any, str, dict[str, str]]:
    """The model under the first attention that works, its name, and why earlier ones did not."""
    from transformers import AutoModel

    passed_over: dict[str, str] = {}
    for attention in candidates:
        try:
            with _quietly():
                model, found = AutoModel.from_pretrained(
                    located.folder,
                    trust_remote_code=True,
                    local_files_only=True,
                    attn_implementation=attention,
                    dtype=dtype,
                    output_loading_info=True,
                )
        except (ImportError, ValueError) as error:
            if not _is_about_attention(error):
                raise PolicyProblem(f"{located.folder}: {_line(error)}") from error
            passed_over[attention] = _line(error)
            continue
        except Exception as error:
            raise PolicyProblem(f"{located.folder}: cannot be loaded: {_line(error)}") from error
        lacking = sorted(found["missing_keys"]) + sorted(str(key) for key in found["mismatched_keys"])
        if lacking:
            raise PolicyProblem(
                f"{located.folder}: the weights lack {len(lacking)} of the model's tensors, {lacking[0]} among them"
            )
        return model, str(getattr(model.config, "_attn_implementation", None) or attention), passed_over
    why = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
    raise EnvironmentProblem(f"no attention implementation works here ({why})")


def _processor(located: CheckpointFiles) -> Any:
    """The processor. Its class asks for a video processor, which needs torchvision; no request has a video."""
    from transformers import AutoProcessor
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        with _quietly():
            if importlib.util.find_spec("torchvision") is not None:
                return AutoProcessor.from_pretrained(
                    located.folder, trust_remote_code=True, local_files_only=True, use_fast=False
                )
            theirs = get_class_from_dynamic_module(_processor_class(located.folder), str(located.folder))
            ours: Any = type(theirs.__name__, (theirs,), {"attributes": ["image_processor", "tokenizer"]})
            return ours.from_pretrained(located.folder, local_files_only=True, trust_remote_code=True, use_fast=False)
    except Exception as error:
        raise PolicyProblem(f"{located.folder}: no processor: {_line(error)}") from error


def _processor_class(folder: Path) -> str:
    """``module.Class`` of the processor, from the first file that names it, in the order AutoProcessor looks."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"):
        if (folder / name).is_file():
            named = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map", {}).get("AutoProcessor")
            if named:
                return str(named)
    raise ValueError("no file names it (auto_map.AutoProcessor)")


def _is_about_attention(error: Exception) -> bool:
    """Whether an error says that an attention implementation is not there or not supported."""
    text = str(error).lower()
    return any(word in text for word in ("flash", "attention", "attn", "sdpa"))


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:237]}..."


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps the libraries' loading bars and remarks off the terminal; errors are ours to tell."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
