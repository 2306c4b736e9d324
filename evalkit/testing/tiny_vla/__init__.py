"""A model with the shape and interface of the released Xiaomi-Robotics-0 checkpoints, with random weights.

``build_tiny_vla`` writes it as a directory in the format of the Hugging Face hub, its own remote code included, so that
a test loads it exactly as a user loads a released checkpoint::

    path = build_tiny_vla(tmp_path / "tiny")
    model = AutoModel.from_pretrained(path, trust_remote_code=True, attn_implementation="sdpa", dtype=torch.float32)

Its actions solve nothing, but they depend on the images, the instruction, the state and the seed as a trained model's
do. One thing differs besides the weights: the tokenizer knows bytes only, so that a prompt is about three times as many
text tokens as with the released vocabulary.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import EnvironmentProblem, UsageError, unknown
from evalkit.policies.xiaomi_robotics_0.loading import INSTALL_COMMAND

REMOTE_CODE = Path(__file__).parent / "remote_code"
ACTION_DIM = 32
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
BYTES = 256  # ids of the byte tokens: 0 to 255; the special tokens follow
SHARD_BYTES = 2 * 1024**3

# At the scale that training starts from, attention averages over the prompt: a word, a block in an image or a gripper
# position would hardly show in the actions. These make it pick out tokens, the action head's own among them, and let
# what it picked outweigh the noise.
GAINS: Mapping[str, float] = {
    "q_norm.weight": 3.0,
    "attn.k_norm.weight": 2.5,
    "attn.o_proj.weight": 4.0,
    "state_projector.layers.0.weight": 8.0,
    "state_projector.layers.2.weight": 3.0,
    "action_projector.layers.0.weight": 0.5,
    "action_output_layer.layers.2.weight": 1.0,  # a flow that five Euler steps follow well, as a trained one
}


@dataclass(frozen=True)
class Size:
    """The fields that differ between the sizes, by their names in ``config.json``.

    Attributes:
        dtype: of the weights.
        text: of the Qwen3-VL text model.
        vision: of the Qwen3-VL vision model.
        dit: of the action head.
        pixels: fewest and most pixels that an image is resized to.
    """

    dtype: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    dit: Mapping[str, Any]
    pixels: tuple[int, int]


SIZES: Mapping[str, Size] = {
    "tiny": Size(  # 16 tokens for a 256x256 image
        dtype="float32",
        text={
            "vocab_size": BYTES + len(SPECIAL_TOKENS),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]},
        },
        vision={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0],
        },
        dit={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "head_dim": 16,
            "num_key_value_heads": 2,
        },
        pixels=(64 * 64, 128 * 128),
    ),
    "full": Size(  # the released shape: 64 tokens for a 256x256 image
        dtype="bfloat16",
        text={
            "vocab_size": 151_936,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
        },
        vision={
            "depth": 24,
            "hidden_size": 1024,
            "num_heads": 16,
            "intermediate_size": 4096,
            "out_hidden_size": 2560,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        dit={
            "hidden_size": 1024,
            "num_hidden_layers": 16,
            "head_dim": 128,
            "num_key_value_heads": 8,
        },
        pixels=(256 * 256, 4096 * 4096),
    ),
}


@dataclass(frozen=True)
class Robot:
    """A robot type's action statistics: every used dimension has standard deviation 0.25, the others 0.

    Attributes:
        chunk: T.
        dims: how many action dimensions are used.
        gripper: the mean of the last used one, the gripper's; the others' is 0.
    """

    chunk: int
    dims: int
    gripper: float = 0.0

    def statistics(self) -> dict[str, list[list[float]]]:
        """Mean and standard deviation, (T, ACTION_DIM) each."""
        unused = [0.0] * (ACTION_DIM - self.dims)
        mean = [0.0] * (self.dims - 1) + [self.gripper] + unused
        std = [0.25] * self.dims + unused
        return {"mean": [mean] * self.chunk, "std": [std] * self.chunk}


ROBOTS: Mapping[str, Robot] = {
    "libero_all": Robot(10, 7),
    "calvin_abcd_orig": Robot(10, 7),
    "calvin_abc_orig": Robot(10, 7),
    "bridge_delta": Robot(4, 7, gripper=0.5),
    "fractal_delta": Robot(4, 7, gripper=0.5),
    "metaworld": Robot(10, 4),
}


def build_tiny_vla(path: str | Path, size: Literal["tiny", "full"] = "tiny", seed: int = 0) -> Path:
    """Write a model directory that loads like a released checkpoint.

    Args:
        path: the directory: new, empty, or one that this function wrote, which is then written anew.
        size: "tiny" for tests (0.4 million parameters), or "full" for the released shape (4.7 thousand million in
            bfloat16, 9.4 GB), to measure latency with.
        seed: of the weights; the same seed gives the same bytes.

    Returns:
        The directory.

    Raises:
        UsageError: ``path`` holds something else, or there is no such size.
        EnvironmentProblem: torch or transformers is missing.
    """
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    model = skeleton(size)
    folder = _claimed(Path(path))
    _write_json(folder / "config.json", {**_config(size), "tiny_vla": {"size": size, "seed": seed}})
    for source in sorted(REMOTE_CODE.glob("*.py")):
        shutil.copyfile(source, folder / source.name)
    _write_tokenizer(folder)
    _write_processor(folder, SIZES[size])
    _write_weights(folder, model, SIZES[size].dtype, seed)
    return folder


def skeleton(size: str) -> Any:
    """Return the model without weights, on torch's meta device."""
    torch = _needed("torch")
    _needed("transformers.models.qwen3_vl")
    package = f"{__name__}.{REMOTE_CODE.name}"
    configuration = importlib.import_module(f"{package}.configuration_mibot")
    modeling = importlib.import_module(f"{package}.modeling_mibot")
    with torch.device("meta"):
        return modeling.MiBoTForActionGeneration(configuration.MiBoTConfig.from_dict(_config(size)))


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        why = str(error).splitlines()[0]
        raise EnvironmentProblem(f"the tiny VLA needs {module} ({why}): {INSTALL_COMMAND}") from error


def _claimed(folder: Path) -> Path:
    """Make the folder, without weights, and return it. Raises UsageError if it holds anything but a tiny VLA."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: name a folder for the tiny VLA")
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise UsageError(f"{folder} is not empty and holds no tiny VLA: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    return folder


def _is_ours(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "tiny_vla" in config


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")


def _config(size: str) -> dict[str, Any]:
    shape = SIZES[size]
    token = {name: BYTES + i for i, name in enumerate(SPECIAL_TOKENS)}
    return {
        "model_type": "mibot",
        "architectures": ["MiBoTForActionGeneration"],
        "auto_map": {
            "AutoConfig": "configuration_mibot.MiBoTConfig",
            "AutoModel": "modeling_mibot.MiBoTForActionGeneration",
        },
        "dtype": shape.dtype,
        "state_length": 1,
        "state_dim": ACTION_DIM,
        "action_length": 30,
        "action_dim": ACTION_DIM,
        "dit_config": {"model_type": "dit", **shape.dit},
        "vlm_config": {
            "model_type": "qwen3_vl",
            "image_token_id": token["<|image_pad|>"],
            "video_token_id": token["<|video_pad|>"],
            "vision_start_token_id": token["<|vision_start|>"],
            "vision_end_token_id": token["<|vision_end|>"],
            "tie_word_embeddings": True,
            "text_config": {
                "model_type": "qwen3_vl_text",
                "max_position_embeddings": 262_144,
                "rope_theta": 5_000_000,
                "tie_word_embeddings": True,
                **shape.text,
            },
            "vision_config": {
                "model_type": "qwen3_vl",
                "patch_size": 16,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                **shape.vision,
            },
        },
    }


def _write_tokenizer(folder: Path) -> None:
    """Qwen's special tokens over plain bytes, for the fast tokenizer (one file) and the slow one (two)."""
    tokenizers = _needed("tokenizers")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    vocabulary = {byte: i for i, byte in enumerate(sorted(byte_level.alphabet()))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "added_tokens_decoder": {str(BYTES + i): {"content": t, **plain} for i, t in enumerate(SPECIAL_TOKENS)},
            "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 262_144,
            "padding_side": "right",
        },
    )


def _write_processor(folder: Path, size: Size) -> None:
    patches = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "processor_class": "MiBotProcessor"}
    _write_json(
        folder / "preprocessor_config.json",
        {
            "auto_map": {"AutoProcessor": "processing_mibot.MiBotProcessor"},
            "image_processor_type": "Qwen2VLImageProcessor",
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "min_pixels": size.pixels[0],
            "max_pixels": size.pixels[1],
            **patches,
            "action_config": {name: robot.statistics() for name, robot in ROBOTS.items()},
        },
    )
    edges = {"shortest_edge": 64 * 64, "longest_edge": 4096 * 4096}
    video = {"video_processor_type": "Qwen3VLVideoProcessor", "size": edges, **patches}
    _write_json(folder / "video_preprocessor_config.json", video)


def _write_weights(folder: Path, model: Any, dtype: str, seed: int) -> None:
    """One file, or shards of 2 GiB, of which one at a time is in memory."""
    torch = _needed("torch")
    save_file = _needed("safetensors.torch").save_file
    generator = torch.Generator().manual_seed(seed)
    width = getattr(torch, dtype).itemsize
    shards = list(_shards({name: p.numel() * width for name, p in model.named_parameters()}))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        several = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = f"model{several}.safetensors"
        tensors = {name: _random(torch, name, shapes[name], getattr(torch, dtype), generator) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        total = sum(p.numel() * width for p in model.parameters())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index)


def _shards(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the names in order, in groups of at most SHARD_BYTES."""
    group: list[str] = []
    filled = 0
    for name, size in sizes.items():
        if group and filled + size > SHARD_BYTES:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += size
    yield group


def _random(torch: Any, name: str, shape: tuple[int, ...], dtype: Any, generator: Any) -> Any:
    """Weights under which every layer's output is about as large as its input, but for GAINS."""
    gain = next((gain for suffix, gain in GAINS.items() if name.endswith(suffix)), 1.0)
    if len(shape) == 1 and name.endswith("weight"):  # a norm's
        return torch.full(shape, gain, dtype=dtype)
    if len(shape) == 1:
        std = 0.3
    elif name.endswith(("embed_tokens.weight", "pos_embed.weight", "sink.weight")):
        std = 1.0
    else:
        std = torch.Size(shape[1:]).numel() ** -0.5
    return torch.empty(shape, dtype=dtype).normal_(0.0, gain * std, generator=generator)
