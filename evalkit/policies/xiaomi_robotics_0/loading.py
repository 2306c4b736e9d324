"""Loading of a released checkpoint as documented: AutoModel and AutoProcessor, with the checkpoint's own code.

transformers is imported only here, and only when a checkpoint is loaded.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import EnvironmentProblem, PolicyProblem, excerpt
from evalkit.files import read_json
from evalkit.policies.remote_code import check_imported
from evalkit.policies.weights import CheckpointFiles

RELEASED_DTYPE = "bfloat16"
INSTALL_COMMAND = "pip install torch 'transformers>=4.57.1,<4.58' pillow transforms3d"
Attention = Literal["auto", "flash_attention_2", "sdpa", "eager"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory.

    Attributes:
        model: the remote code's model, in evaluation mode, on its device.
        processor: its processor, with ``tokenizer``.
        metadata: device, dtypes, attention and library versions; JSON values.
    """

    model: Any
    processor: Any
    metadata: dict[str, Any]


def missing_libraries() -> str | None:
    """Return a message about the first library that is missing or unsuitable, or None."""
    for name in ("torch", "transformers", "PIL", "transforms3d"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: {INSTALL_COMMAND}"
    version = importlib.metadata.version("transformers")
    if not version.startswith("4.57."):
        return f"transformers {version} is installed, and the released code needs 4.57: {INSTALL_COMMAND}"
    return None


def load(files: CheckpointFiles, attention: Attention, dtype: Dtype, device: str) -> LoadedCheckpoint:
    """Load model and processor from a directory, without network access.

    Args:
        files: the checkpoint's files.
        attention: the implementation, or auto: the first of flash, sdpa and eager that machine and model support.
        dtype: dtype of weights and arithmetic, or auto: bfloat16, as released.
        device: torch's name of a device, or auto: the GPU if there is one, else the CPU.

    Raises:
        EnvironmentProblem: a library, or the device, is missing.
        PolicyProblem: the weights, the code or the processor cannot be loaded.
    """
    missing = missing_libraries()
    if missing:
        raise EnvironmentProblem(missing)
    import torch

    torch_device = _device(device)
    dtype_name = RELEASED_DTYPE if dtype == "auto" else dtype
    model, used, rejected = _model(files, _candidates(attention, torch_device.type), getattr(torch, dtype_name))
    adapted = _cast(model.to(torch_device).eval(), getattr(torch, dtype_name), released=dtype_name == RELEASED_DTYPE)
    metadata: dict[str, Any] = {
        "device": _device_name(torch_device),
        "dtype": dtype_name,
        "buffers_dtype": _buffer_dtypes(model),
        "attention": used,
        "libraries": _versions(),
    }
    if torch_device.type == "cpu":
        metadata["threads"] = torch.get_num_threads()
    else:
        metadata["cuda"] = {
            "version": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    if rejected:
        metadata["attention_rejected"] = rejected
    if adapted:
        metadata["adapted_dtype"] = adapted
    processor = _processor(files)
    check_imported(files.folder, files.code, model, model.config, processor)
    return LoadedCheckpoint(model, processor, metadata)


def _cast(model: Any, dtype: Any, released: bool) -> list[str]:
    """Give the model the dtype that its arithmetic needs; return the names of the modules that were adapted.

    In the released dtype the whole model is cast once more, as the released server does at the end of its loading
    (``deploy/server.py``). The cast reaches the rotary frequencies, which ``from_pretrained`` leaves in float32. In any
    other dtype, a module whose own ``dtype`` is fixed (the released flow-time embedding) gets that dtype instead.
    """
    import torch

    if released:
        model.to(dtype)
    adapted = []
    for name, module in model.named_modules():
        own = vars(module).get("dtype")
        if isinstance(own, torch.dtype) and own != dtype:
            module.dtype = dtype
            adapted.append(name)
    return adapted


def _buffer_dtypes(model: Any) -> str:
    """Return the dtype of the model's floating-point buffers, such as rotary frequencies."""
    return ", ".join(sorted({str(b.dtype).removeprefix("torch.") for b in model.buffers() if b.is_floating_point()}))


def _versions() -> dict[str, str]:
    """Return the versions of the installed libraries that could change a chunk's bits."""
    required = ("torch", "transformers", "tokenizers", "safetensors", "pillow", "numpy", "transforms3d")
    optional = ("torchvision", "flash-attn")  # the processor's and the attention's code paths
    versions = {}
    for name in (*required, *optional):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = excerpt((str(error).strip() or type(error).__name__).splitlines()[0])
        raise EnvironmentProblem(f"device {name!r} cannot be used on this machine: {reason}") from error
    return device


def _device_name(device: Any) -> str:
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _candidates(attention: Attention, device_type: str) -> list[str]:
    """Return the implementations to try, in order; flash attention runs on GPUs alone."""
    if attention != "auto":
        return [attention]
    return (["flash_attention_2"] if device_type == "cuda" else []) + ["sdpa", "eager"]


def _model(files: CheckpointFiles, candidates: list[str], dtype: Any) -> tuple[Any, str, dict[str, str]]:
    """Return the model under the first attention that works, its name, and the errors of those before."""
    from transformers import AutoModel

    rejected: dict[str, str] = {}
    for attention in candidates:
        try:
            with _silenced():
                model, report = AutoModel.from_pretrained(
                    files.folder,
                    trust_remote_code=files.trusted,
                    local_files_only=True,
                    use_safetensors=True,  # a pickle can run code
                    attn_implementation=attention,
                    dtype=dtype,
                    output_loading_info=True,
                )
        except (ImportError, ValueError) as error:
            if not _is_about_attention(error):
                raise PolicyProblem(f"{files.folder}: {_one_line(error)}") from error
            rejected[attention] = _one_line(error)
            continue
        except Exception as error:
            raise PolicyProblem(f"{files.folder}: cannot be loaded: {_one_line(error)}") from error
        missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
        if missing:
            raise PolicyProblem(
                f"{files.folder}: the weights lack {len(missing)} of the model's tensors, {missing[0]} among them"
            )
        return model, str(getattr(model.config, "_attn_implementation", None) or attention), rejected
    reasons = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
    raise EnvironmentProblem(f"no attention implementation works on this machine ({reasons})")


def _processor(files: CheckpointFiles) -> Any:
    """Load the processor, without its video processor if torchvision, which that needs, is not installed.

    No request has a video.
    """
    from transformers import AutoProcessor
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        with _silenced():
            if importlib.util.find_spec("torchvision") is not None:
                return AutoProcessor.from_pretrained(
                    files.folder, trust_remote_code=files.trusted, local_files_only=True, use_fast=False
                )
            if not files.trusted:
                raise ValueError("its code may not be run")
            released = get_class_from_dynamic_module(_processor_class(files.folder), str(files.folder))
            reduced: Any = type(released.__name__, (released,), {"attributes": ["image_processor", "tokenizer"]})
            return reduced.from_pretrained(files.folder, local_files_only=True, trust_remote_code=True, use_fast=False)
    except Exception as error:
        raise PolicyProblem(f"{files.folder}: no processor: {_one_line(error)}") from error


def _processor_class(folder: Path) -> str:
    """Return the processor's ``module.Class`` from the first file that names it, in AutoProcessor's order."""
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "config.json"):
        if (folder / name).is_file():
            class_name = read_json(folder / name, strict=False).get("auto_map", {}).get("AutoProcessor")
            if class_name:
                return str(class_name)
    raise ValueError("no file names its class (auto_map.AutoProcessor)")


def _is_about_attention(error: Exception) -> bool:
    """Return True if an error means that an attention implementation is missing or unsupported."""
    text = str(error).lower()
    return any(word in text for word in ("flash", "attention", "attn", "sdpa"))


def _one_line(error: BaseException) -> str:
    return excerpt(error, 240) or type(error).__name__


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the libraries' progress bars and messages; errors are still raised."""
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
