"""Chunks for the same weights and requests: evalkit beside the authors' own code, where a checkout of it is at hand."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.expected_requests import ROBOT
from support.observations import observations
from support.paths import REPOSITORY
from support.requirements import xiaomi_source

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from evalkit.execution import Prefix
from evalkit.policies.weights import locate
from evalkit.policies.xiaomi_robotics_0.inference import Inference
from evalkit.policies.xiaomi_robotics_0.loading import Dtype, LoadedCheckpoint, load
from evalkit.policies.xiaomi_robotics_0.post_training import PostTraining
from evalkit.policies.xiaomi_robotics_0.requests import ModelRequest, presets

pytestmark = [pytest.mark.torch, pytest.mark.slow]
RELEASED = ("libero", "calvin", "widowx", "google_robot")
POST_TRAINING = "xr0/mibot/models/VLA/XR0.py"


def requests(preset_name: str, count: int) -> list[ModelRequest]:
    return [presets()[preset_name].build_request(o, ROBOT[preset_name]) for o in observations(preset_name, count)]


def loaded_as(tiny: Path, dtype: Dtype) -> LoadedCheckpoint:
    return load(locate(str(tiny), None, True), "auto", dtype, "auto")


# The released server


def file_as_module(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client(tiny: Path) -> Iterator[Callable[..., Any]]:
    """Start the released server; yield a client of the released class."""
    source = xiaomi_source("deploy/server.py")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(REPOSITORY / "tests" / "support" / "released_server.py")]
    server = subprocess.Popen([*command, str(source), str(tiny), str(port)], stdout=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:  # the client's file imports them, and uses neither
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        kind = file_as_module(source / "deploy" / "client.py", "released_client").Client
    try:
        connected = kind("127.0.0.1", port)
        yield connected
        connected.close()
    finally:
        server.kill()
        server.wait()


def as_the_scripts_send_it(preset_name: str, request: ModelRequest) -> dict[str, Any]:
    """Return the keyword arguments of the released client for a request."""
    fields = {"task_id": ROBOT[preset_name], "base": request.images[0], "seed": request.seed}
    if preset_name in ("widowx", "google_robot"):
        return {**fields, "state": request.state[None, None], "language": request.prompt}
    said = re.search(r"for the task:\n(.*) /no_cot", request.prompt, re.DOTALL)
    assert said is not None
    return {**fields, "state": request.state, "wrist_left": request.images[1], "language": said[1]}


@pytest.mark.parametrize("preset_name", RELEASED)
def test_chunks_are_those_of_the_released_server(client: Any, tiny: Path, preset_name: str) -> None:
    made = requests(preset_name, 8)
    chunks = Inference(loaded_as(tiny, "auto"), ROBOT[preset_name]).chunks(made)
    replies = [client(**as_the_scripts_send_it(preset_name, request))[0].numpy() for request in made]
    assert [np.array_equal(a, b) for a, b in zip(chunks, replies, strict=True)] == [True] * 8
    assert chunks[0].dtype == replies[0].dtype and np.ptp(chunks[0][:, :7]) > 0.1


def test_float32_chunks_are_others(client: Any, tiny: Path) -> None:
    """Hold the comparison above to its sharpness: it tells dtypes apart."""
    made = requests("libero", 2)
    replies = [client(**as_the_scripts_send_it("libero", request))[0].numpy() for request in made]
    chunks = Inference(loaded_as(tiny, "float32"), "libero_all").chunks(made)
    assert not any(np.array_equal(a, b) for a, b in zip(chunks, replies, strict=True))


# The post-training code


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> LoadedCheckpoint:
    return loaded_as(tiny, "auto")


@pytest.fixture(scope="module")
def post_trained_model(loaded: LoadedCheckpoint) -> Any:
    """Return the authors' post-training model with the tiny checkpoint's weights."""
    file = xiaomi_source(POST_TRAINING) / POST_TRAINING
    stand_ins: dict[str, dict[str, Any]] = {
        "mibot": {},
        "mibot.models": {"MIMODEL": types.SimpleNamespace(register_module=lambda: lambda kind: kind)},
        "mibot.models.VLM": {},
        "mibot.models.VLM.qwen3vl": {"Qwen3VLForConditionalGeneration": None},
        "mibot.utils": {},
        "mibot.utils.model_utils": {"auto_cast": lambda function: function},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, attributes in stand_ins.items():
            module = types.ModuleType(name)
            vars(module).update(attributes)
            patch.setitem(sys.modules, name, module)
        code = file_as_module(file, "authors_post_training")
    model, dit = loaded.model, loaded.model.config.dit_config
    xr0 = code.XR0.__new__(code.XR0)
    torch.nn.Module.__init__(xr0)
    xr0.state_shape, xr0.action_shape = (1, 32), (30, 32)
    xr0.num_steps, xr0.local_window, xr0.training_repeat, xr0.async_train = 5, 4, 1, True
    xr0.dit = code.DiT(dit.hidden_size, dit.num_hidden_layers, dit.head_dim, dit.num_key_value_heads)
    xr0.state_projector = code.MLPProjector(32, dit.hidden_size, num_layers=2)
    xr0.action_projector = code.MLPProjector(32, dit.hidden_size, num_layers=2)
    xr0.action_output_layer = code.MLPProjector(dit.hidden_size, 32, num_layers=2)
    xr0.t_embedder = code.TimestepEmbedder(dit.hidden_size)
    xr0.t_projector = code.MLPProjector(dit.hidden_size, 6 * dit.hidden_size, bias=True)
    xr0.sink = torch.nn.Embedding(1, dit.hidden_size)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("vlm.")}
    xr0.load_state_dict(weights, strict=True)
    xr0.rotary_emb = model.rotary_emb
    xr0.to(torch.bfloat16).eval()

    def backbone(**batch: Any) -> Any:
        seen = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
        output = model.vlm(**seen, use_cache=True)
        positions, _ = model.vlm.model.get_rope_index(
            seen["input_ids"], seen["image_grid_thw"], None, attention_mask=seen["attention_mask"]
        )
        cache = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return types.SimpleNamespace(past_key_values=cache, position_ids=positions)

    object.__setattr__(xr0, "vlm", backbone)
    return xr0


@pytest.mark.parametrize("length", [0, 1, 2, 4, 6])
def test_prefixes_are_continued_as_the_post_training_code_does(
    post_trained_model: Any, loaded: LoadedCheckpoint, length: int
) -> None:
    first, *asked = requests("libero", 5)
    inference = Inference(loaded, "libero_all", post_training=PostTraining(local_window=4, async_train=True))
    left = inference.chunks([first])[0][3:]
    mask = loaded.processor.get_action_mask("libero_all").to(torch.bfloat16)
    for request in asked:
        prefix = Prefix(left[:length], length, "prefix") if length else None
        prepared = inference._prepare(replace(request, prefix=prefix))
        action = torch.zeros_like(mask) if prepared.prefix is None else prepared.prefix.actions.to(torch.bfloat16)
        batch = {"action": action, "action_mask": mask, "state": prepared.state, "prefix_length": length}
        torch.manual_seed(request.seed)
        wanted = post_trained_model.generate({**prepared.prompt, **batch})
        decoded = loaded.processor.decode_action(wanted, "libero_all")[0].numpy()
        got = inference.chunks([replace(request, prefix=prefix)])[0]
        assert np.array_equal(got, decoded)
        assert not np.array_equal(got, Inference(loaded, "libero_all").chunks([request])[0])
