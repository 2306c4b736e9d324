"""The tiny VLA has the released checkpoints' interface, and its actions depend on the inputs of a trained model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from evalkit.errors import EnvironmentProblem, UsageError
from evalkit.testing import build_tiny_vla, tiny_vla

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="4.57")

from PIL import Image
from torch.overrides import TorchFunctionMode
from transformers import AutoModel, AutoProcessor, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module

pytestmark = pytest.mark.torch

PROMPT = (
    "<|im_start|>user\nThe following observations are captured from multiple views.\n"
    "# Base View\n<|vision_start|><|image_pad|><|vision_end|>\n"
    "# Left-Wrist View\n<|vision_start|><|image_pad|><|vision_end|>\n"
    "Generate robot actions for the task:\n{} /no_cot<|im_end|>\n<|im_start|>assistant\n<cot></cot><|im_end|>\n"
)
CUP = "Put the cup on the plate."
DRAWER = "Open the top drawer of the cabinet and put the bowl inside."


def load(path, dtype=torch.float32, **options):
    """Load the model; in another dtype than the released one, with the time embedding in that dtype too."""
    options = {"attn_implementation": "eager", **options}
    model = AutoModel.from_pretrained(path, trust_remote_code=True, dtype=dtype, **options)
    model.t_embedder.dtype = dtype
    return model


def load_processor(path):
    """Load the processor as AutoProcessor does, but without the video processor, which needs torchvision."""
    released = get_class_from_dynamic_module("processing_mibot.MiBotProcessor", str(path))
    lean = type("LeanProcessor", (released,), {"attributes": ["image_processor", "tokenizer"]})
    return lean.from_pretrained(path, use_fast=False)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Use one thread: for so small a model, the overhead of threads exceeds the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build_tiny_vla(tmp_path_factory.mktemp("vla") / "tiny-vla")


@pytest.fixture(scope="module")
def model(path):
    return load(path)


@pytest.fixture
def processor(path):
    return load_processor(path)


def image(x, side=256):
    """Return a gradient with a red block at ``x``."""
    row = np.linspace(0, 255, side).astype(np.uint8)
    pixels = np.stack([np.tile(row, (side, 1)), np.tile(row[:, None], (1, side)), np.full((side, side), 90)], -1)
    pixels = pixels.astype(np.uint8)
    pixels[side // 3 : side // 2, x : x + side // 6] = (200, 30, 30)
    return Image.fromarray(pixels)


def inputs(processor, texts=(CUP,), images=None, states=None, robot_type="libero_all", dtype=torch.float32):
    """Return the keyword arguments of one forward call, as the released scripts make them."""
    images = [image(40), image(90)] * len(texts) if images is None else images
    states = [[-0.05, 0.03, 0.2, 3.1, 0.1, -0.1, 0.04, -0.04]] * len(texts) if states is None else states
    padded = torch.tensor([[s + [0.0] * (32 - len(s))] for s in states])
    batch = processor(
        text=[PROMPT.format(t) for t in texts], images=images, videos=None, padding=True, return_tensors="pt"
    )
    mask = processor.get_action_mask(robot_type, batch_size=len(texts))
    request = {**batch, "state": padded, "action_mask": mask}
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in request.items()}


def act(model, processor, seed=1, dtype=torch.float32, **options):
    return model(**inputs(processor, dtype=dtype, **options), seed=seed).actions


class HandedNoise(TorchFunctionMode):
    """A context in which torch.randn_like returns ``noise``."""

    def __init__(self, noise):
        super().__init__()
        self.noise, self.asked = noise, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.randn_like:
            self.asked.append(args[0])
            return self.noise
        return func(*args, **(kwargs or {}))


def flow_calls(model, monkeypatch, request):
    """Return the arguments of every dit_forward call of one forward, by wrapping the instance's method."""
    calls, flow = [], model.dit_forward
    with monkeypatch.context() as patch:
        patch.setattr(model, "dit_forward", lambda **kwargs: calls.append(kwargs) or flow(**kwargs))
        model(**request)
    return calls


# --- the directory


def test_importing_the_builder_imports_no_torch():
    check = "import sys, evalkit.testing.tiny_vla; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_fresh_process_loads_it_offline_as_a_user_does(path, tmp_path):
    script = f"""
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(
    {str(path)!r}, trust_remote_code=True, attn_implementation="eager", dtype=torch.bfloat16
)
assert type(model).__name__ == "MiBoTForActionGeneration" and model.config.model_type == "mibot"
assert model.dtype == torch.bfloat16 and not model.training
assert model.config.state_length == 1 and model.config.action_length == 30
assert model.config.state_dim == model.config.action_dim == 32
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_parameter_counts(model):
    def count(m):
        return sum(p.numel() for p in m.parameters())

    assert count(model) < 1e6
    assert model.vlm.lm_head.weight is model.vlm.get_input_embeddings().weight
    full = tiny_vla.skeleton("full")
    assert 4.4e9 < count(full) < 5.0e9
    assert all(p.is_meta for p in full.parameters())


def test_full_size_is_written_in_shards_that_load(tmp_path, monkeypatch):
    """With the tiny shape in small shards. Actions would differ in their last bits, with the alignment in the file."""
    with monkeypatch.context() as patch:
        patch.setattr(tiny_vla, "SHARD_BYTES", 400_000)
        path = build_tiny_vla(tmp_path / "sharded")
    assert len(list(path.glob("model-*.safetensors"))) > 2
    sharded = load(path)
    build_tiny_vla(path)  # again in one file, the shards gone
    assert [p.name for p in path.glob("*safetensors*")] == ["model.safetensors"]
    one_file = dict(load(path).named_parameters())
    assert all(torch.equal(p, one_file[name]) for name, p in sharded.named_parameters())


def test_same_seed_gives_the_same_bytes_and_leaves_the_random_state_alone(path, tmp_path):
    before = torch.get_rng_state()
    same, other = build_tiny_vla(tmp_path / "a", seed=0), build_tiny_vla(tmp_path / "b", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    files = sorted(p.name for p in path.iterdir() if p.is_file())
    assert all((path / f).read_bytes() == (same / f).read_bytes() for f in files)
    differ = [f for f in files if (path / f).read_bytes() != (other / f).read_bytes()]
    assert differ == ["config.json", "model.safetensors"]


def test_two_seeds_in_one_process_do_not_disturb_each_other(path, model, processor, tmp_path):
    expected = act(model, processor)
    other = load(build_tiny_vla(tmp_path / path.name, seed=1))  # even under the same directory name
    assert not torch.allclose(act(other, processor), expected, atol=0.1)
    assert torch.equal(act(model, processor), expected)
    assert torch.equal(act(load(path), processor), expected)


def test_strangers_are_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mibot"}))
    with pytest.raises(UsageError, match="holds no tiny VLA"):
        build_tiny_vla(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(UsageError, match="is a file"):
        build_tiny_vla(tmp_path / "config.json")
    with pytest.raises(UsageError, match="did you mean tiny"):
        build_tiny_vla(tmp_path / "new", size="tinny")


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_missing_extra_is_one_line_that_says_what_to_install(missing, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EnvironmentProblem, match=r"pip install torch 'transformers.*' pillow transforms3d$") as error:
        build_tiny_vla(tmp_path / "new")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


# --- the model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_as_asked(dtype, path, model, processor):
    loaded = load(path, dtype=dtype)
    text, vision = loaded.vlm.config.text_config, loaded.vlm.config.vision_config
    assert {c._attn_implementation for c in (loaded.config, text, vision, loaded.config.dit_config)} == {"eager"}
    actions = act(loaded, processor, dtype=dtype)
    assert actions.dtype == dtype and actions.shape == (1, 10, 32)
    assert (actions.float() - act(model, processor)).abs().mean() < 0.1


def test_peculiarities_of_the_released_code(path, processor):
    """Callers depend on them: refused sdpa, a time embedding in bfloat16 alone, and a backbone that gets the seed."""
    with pytest.raises(ValueError, match=r"does not support .*scaled_dot_product_attention"):
        load(path, attn_implementation="sdpa")
    single = AutoModel.from_pretrained(path, trust_remote_code=True, attn_implementation="eager", dtype=torch.float32)
    with pytest.raises(RuntimeError, match="same dtype"):
        act(single, processor)
    released = load(path, dtype=torch.bfloat16)
    assert released.t_embedder.dtype == torch.bfloat16
    assert {b.dtype for n, b in released.named_buffers() if n.endswith("inv_freq")} == {torch.float32}
    seen, backbone = [], released.vlm.forward
    released.vlm.forward = lambda **arguments: (seen.append(arguments), backbone(**arguments))[1]
    act(released, processor, seed=5, dtype=torch.bfloat16)
    assert seen[0]["seed"] == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"texts": [DRAWER]},
        {"texts": ["Put the cup on the stove."]},
        {"images": [image(150), image(90)]},
        {"images": [image(40), image(10)]},
        {"states": [[0.15, -0.13, 0.1, 3.1, 0.1, -0.1, 0.0, 0.0]]},
    ],
    ids=["noise", "task", "word", "base view", "wrist view", "state"],
)
def test_actions_depend_on(changed, model, processor):
    moved = (act(model, processor, **changed) - act(model, processor))[..., :7].abs()
    assert moved.max() > 0.01


def test_decoded_actions_are_plausible(model, processor):
    for robot_type in processor.list_robot_types():
        used = processor.get_action_mask(robot_type)[0, 0].bool()
        chunks = [act(model, processor, robot_type=robot_type, seed=s) for s in range(5)]
        decoded = torch.cat([processor.decode_action(c, robot_type) for c in chunks])[..., used]
        assert (decoded.abs() <= 1).float().mean() > 0.8
        assert decoded.std() > 0.1


def test_seed_decides_the_noise_and_the_random_state_is_put_back(model, processor):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = act(model, processor, seed=2**32 - 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(act(model, processor, seed=2**32 - 1), first)
    with pytest.raises(KeyError, match="seed"):
        model(**inputs(processor))


def test_noise_is_drawn_once_from_the_action_mask_itself(model, processor):
    request = inputs(processor)
    torch.manual_seed(7)
    noise = torch.randn_like(request["action_mask"])
    with HandedNoise(noise) as handed:
        actions = model(**request, seed=0).actions
    assert len(handed.asked) == 1 and handed.asked[0] is request["action_mask"]
    assert torch.equal(actions, model(**request, seed=7).actions)


def test_flow_calls_take_the_released_arguments(model, processor, monkeypatch):
    calls = flow_calls(model, monkeypatch, {**inputs(processor), "seed": 0})
    names = {"noisy_action", "t", "action_mask", "state_embed", "position_embeds", "past_key_values", "attn_mask"}
    assert [set(c) for c in calls] == [names] * 5
    assert [c["t"].shape for c in calls] == [(1, 1, 1)] * 5
    assert [c["t"].item() for c in calls] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    masked = calls[0]["noisy_action"] + 5 * (1 - calls[0]["action_mask"])
    with torch.no_grad():
        v = model.dit_forward(**calls[0])
        assert torch.equal(calls[1]["noisy_action"], calls[0]["noisy_action"] + v * (1 / 5))
        assert torch.equal(model.dit_forward(**{**calls[0], "noisy_action": masked}), v)


def test_wrapped_flow_can_differentiate(model, processor, monkeypatch):
    flow = model.dit_forward

    def guided(noisy_action, **kwargs):
        with torch.enable_grad():
            x = noisy_action.detach().requires_grad_()
            v = flow(noisy_action=x, **kwargs)
            return v.detach() + torch.autograd.grad(v[:, 3].square().sum(), x)[0]

    free = act(model, processor)
    monkeypatch.setattr(model, "dit_forward", guided)
    assert not torch.allclose(act(model, processor), free, atol=0.01)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_single_rows(side, model, processor):
    processor.tokenizer.padding_side = side
    texts = [CUP, DRAWER, "Push."]
    images = [image(40), image(90), image(20, side=200), image(10, side=84), image(100), image(30, side=120)]
    states = [[0.1 * row] * 8 for row in range(3)]
    rows = [
        inputs(processor, texts[i : i + 1], images[2 * i : 2 * i + 2], states[i : i + 1]) for i in range(len(texts))
    ]
    noise = []
    for seed, row in enumerate(rows):
        torch.manual_seed(seed)
        noise.append(torch.randn_like(row["action_mask"]))
    alone = torch.cat([model(**row, seed=seed).actions for seed, row in enumerate(rows)])
    batch = inputs(processor, texts, images, states)
    assert (batch["attention_mask"] == 0).any()
    with HandedNoise(torch.cat(noise)):
        together = model(**batch, seed=0).actions
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    with HandedNoise(noise[0].repeat(3, 1, 1)):
        same_noise = model(**batch, seed=0).actions
    assert all((same_noise[i] - same_noise[j])[:, :7].abs().max() > 0.1 for i, j in [(0, 1), (0, 2), (1, 2)])


# --- the processor


def test_released_processor_class_needs_torchvision(path):
    if importlib.util.find_spec("torchvision"):
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=True, use_fast=False)
        assert type(processor).__name__ == "MiBotProcessor"
    else:
        with pytest.raises(ImportError, match="Torchvision"):
            AutoProcessor.from_pretrained(path, trust_remote_code=True, use_fast=False)


def test_action_mask_and_decoding(processor):
    shapes = {name: tuple(processor.get_action_mask(name).shape) for name in processor.list_robot_types()}
    ten, four = (1, 10, 32), (1, 4, 32)
    assert shapes == {
        **{"libero_all": ten, "calvin_abcd_orig": ten, "calvin_abc_orig": ten},
        **{"bridge_delta": four, "fractal_delta": four, "metaworld": ten},
    }
    mask = processor.get_action_mask("metaworld", batch_size=3)
    assert mask.dtype == torch.float32 and mask.shape == (3, 10, 32)
    assert mask.sum(-1).unique().tolist() == [4] and mask[0, 0, :4].tolist() == [1] * 4
    decoded = processor.decode_action(torch.ones(2, 4, 32, dtype=torch.bfloat16), "bridge_delta")
    assert decoded.dtype == torch.float32 and decoded.shape == (2, 4, 32)
    assert decoded[0, 0, :8].tolist() == pytest.approx([0.25] * 6 + [0.75, 0.0])
    with pytest.raises(ValueError, match="unknown robot type 'aloha': there are libero_all"):
        processor.get_action_mask("aloha")


def test_prompts_get_a_token_per_merged_patch(processor, model):
    images = [image(40), image(90), image(20, side=200), image(10, side=84)]
    batch = processor(text=[PROMPT.format(CUP), PROMPT.format(CUP)], images=images, padding=True, return_tensors="pt")
    merged = batch["image_grid_thw"].prod(-1) // 4
    assert merged.tolist() == [16, 16, 16, 9]
    found = (batch["input_ids"] == model.config.vlm_config.image_token_id).sum(-1)
    assert found.tolist() == [32, 25]
    assert batch["attention_mask"][1, -1] == 0, "the files say: padding on the right"
    with pytest.raises(ValueError, match=r"2 <\|image_pad\|>, but there are 1 images"):
        processor(text=[PROMPT.format(CUP)], images=images[:1], return_tensors="pt")


def test_fast_and_slow_tokenizer_agree_and_round_trip(path):
    fast, slow = (AutoTokenizer.from_pretrained(path, use_fast=use_fast) for use_fast in (True, False))
    text = PROMPT.format("Naïve: 把碗放好. 42!")
    assert fast(text)["input_ids"] == slow(text)["input_ids"]
    assert fast.decode(fast(text)["input_ids"]) == slow.decode(slow(text)["input_ids"]) == text
    assert fast.pad_token == slow.pad_token == "<|endoftext|>"
