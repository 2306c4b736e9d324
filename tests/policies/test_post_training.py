"""Weights of the authors' post-training code: their settings, and the inputs of the action head in a pass."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.observations import observations
from support.paths import REPOSITORY

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from evalkit.episode import Episode
from evalkit.errors import EvalkitError, PolicyProblem
from evalkit.execution import Prefix
from evalkit.policies.checkpoint import find_checkpoint
from evalkit.policies.weights import locate
from evalkit.policies.xiaomi_robotics_0.inference import Inference
from evalkit.policies.xiaomi_robotics_0.loading import LoadedCheckpoint, load
from evalkit.policies.xiaomi_robotics_0.post_training import PostTraining
from evalkit.policies.xiaomi_robotics_0.requests import ModelRequest, presets
from evalkit.policy import Request
from evalkit.suite import load_suite

pytestmark = pytest.mark.torch
H = 10
BEFORE = 2  # tokens before the actions: sink and state


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> LoadedCheckpoint:
    return load(locate(str(tiny), None, True), "auto", "float32", "auto")


@pytest.fixture(scope="module")
def asked() -> list[ModelRequest]:
    return [presets()["libero"].build_request(o, "libero_all") for o in observations("libero", 3)]


def steps_of(
    loaded: LoadedCheckpoint, requests: list[ModelRequest], trained: PostTraining | None
) -> list[dict[str, Any]]:
    """Return the arguments that the model's own dit_forward receives in one pass, with the positions of its tokens."""
    seen: list[dict[str, Any]] = []
    positions: list[Any] = []
    step, rotary = type(loaded.model).dit_forward, loaded.model.rotary_emb.forward

    def recorded(self: Any, **arguments: Any) -> Any:
        seen.append({**arguments, "positions": positions[0]})
        return step(self, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(loaded.model), "dit_forward", recorded)
        patch.setattr(loaded.model.rotary_emb, "forward", lambda x, at: (positions.append(at), rotary(x, at))[1])
        Inference(loaded, "libero_all", len(requests), post_training=trained).chunks(requests)
    return seen


def test_every_row_holds_its_own_prefix_and_shifts_the_rest(
    loaded: LoadedCheckpoint, asked: list[ModelRequest]
) -> None:
    left = Inference(loaded, "libero_all").chunks(asked[:1])[0]
    lengths = [0, 2, 5]
    requests = [
        replace(request, prefix=Prefix(left[:length], length, "prefix"))
        for request, length in zip(asked, lengths, strict=True)
    ]
    plain, trained = (steps_of(loaded, requests if t else asked, t) for t in (None, PostTraining(4, True)))
    assert len(plain) == len(trained) == 5
    shift = (trained[0]["positions"] - plain[0]["positions"])[0]
    for row, length in enumerate(lengths):
        assert shift[row].tolist() == [0] * (BEFORE + length) + [10] * (H - length)
        held = [step["noisy_action"][row, :length] for step in trained]
        assert all(torch.equal(one, held[0]) for one in held), "the prefix stays as it is in every step"
        decoded = held[0][:, :7] * 0.25
        assert torch.allclose(decoded, torch.from_numpy(left[:length, :7]), atol=1e-6)
        assert torch.equal(trained[0]["noisy_action"][row, length:], plain[0]["noisy_action"][row, length:])


@pytest.mark.parametrize("window", [0, 4])
def test_an_action_sees_the_window_before_it(loaded: LoadedCheckpoint, asked: list[ModelRequest], window: int) -> None:
    plain, trained = (steps_of(loaded, asked[:1], t)[0]["attn_mask"] for t in (None, PostTraining(window, False)))
    queries, keys = trained.shape[-2:]
    assert queries == BEFORE + H and torch.equal(trained[..., : keys - H], plain[..., : keys - H])
    for action in range(H):
        visible = trained[0, 0, BEFORE + action, keys - H :].nonzero().flatten().tolist()
        assert visible == list(range(max(0, action - window), action + 1))


def test_settings_come_from_config_json_and_from_parameters(tiny: Path, tmp_path: Path) -> None:
    libero = load_suite("libero")
    folder = Path(shutil.copytree(tiny, tmp_path / "trained"))
    config = json.loads((folder / "config.json").read_text())

    def built(parameters: str = "", **settings: Any) -> Any:
        (folder / "config.json").write_text(json.dumps({**config, **settings}))
        return find_checkpoint(f"{folder}{parameters}").build(libero).spec

    shift = {"position_shift": 10}
    assert "post_training" not in built().metadata
    trained = built(async_train=True)
    assert trained.metadata["post_training"] == {"local_window": 4, "async_train": True, **shift}
    assert trained.supported_prefixes == ("prefix", "rtc")
    synchronous = built(local_window=6)
    assert synchronous.metadata["post_training"] == {"local_window": 6, "async_train": False, **shift}
    assert synchronous.supported_prefixes == ("rtc",)
    replaced = built(":async_train=true,local_window=3", local_window=6)
    assert replaced.metadata["post_training"] == {"local_window": 3, "async_train": True, **shift}
    for wrong, message in (({"async_train": 1}, "async_train must be true"), ({"local_window": True}, "a number")):
        with pytest.raises(EvalkitError, match=rf"config\.json: .*{message}"):
            built(**wrong)


def test_post_training_changes_chunks_without_prefixes_too(loaded: LoadedCheckpoint, asked: list[ModelRequest]) -> None:
    plain = Inference(loaded, "libero_all").chunks(asked[:1])[0]
    trained = Inference(loaded, "libero_all", post_training=PostTraining(4, False)).chunks(asked[:1])[0]
    assert not np.array_equal(plain, trained)


def test_longer_prefixes_than_trained_are_warned_about_once(
    loaded: LoadedCheckpoint, asked: list[ModelRequest]
) -> None:
    inference = Inference(loaded, "libero_all", post_training=PostTraining(4, True))
    long = [replace(request, prefix=Prefix(np.zeros((7, 32), np.float32), 7, "prefix")) for request in asked]
    short = replace(asked[0], prefix=Prefix(np.zeros((6, 32), np.float32), 6, "prefix"))
    inference.chunks([short])
    assert inference.warnings == []
    inference.chunks(long)
    assert inference.warnings == ["prefixes of 7 actions: the post-training code trains with at most 6"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: setattr(model, "rotary_emb", None), "has no rotary_emb"),
        (lambda model: setattr(model, "forward", _without_flow), "does not call its rotary_emb"),
        (lambda model: _calling(model, lambda step, a: step(a.pop("noisy_action"), **a)), "does not call dit_forward"),
    ],
)
def test_code_of_another_kind_is_refused(tiny: Path, asked: list[ModelRequest], damage: Any, message: str) -> None:
    other = load(locate(str(tiny), None, True), "auto", "float32", "auto")
    inference = Inference(other, "libero_all", post_training=PostTraining(4, True))
    damage(other.model)
    with pytest.raises(PolicyProblem, match=message):
        inference.chunks(asked[:1])


def _without_flow(action_mask: Any, **_: Any) -> Any:
    return SimpleNamespace(actions=action_mask)


def _calling(model: Any, call: Any) -> None:
    """Replace the model's ``forward`` by one whose calls of ``dit_forward`` are made by ``call``."""
    forward = type(model).forward

    class Changed:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def dit_forward(self, **arguments: Any) -> Any:
            return call(model.dit_forward, arguments)

    model.forward = lambda **arguments: forward(Changed(), **arguments)


def test_an_export_of_its_weights_is_the_checkpoint_it_was_made_of(tiny: Path, tmp_path: Path) -> None:
    """Save weights as the post-training code does, export them, and load them as a user does."""
    from safetensors.torch import load_file

    tensors = {f"model.{name}": tensor.bfloat16() for name, tensor in load_file(tiny / "model.safetensors").items()}
    embedding = tensors["model.vlm.model.language_model.embed_tokens.weight"]
    torch.save({"module": {**tensors, "model.vlm.lm_head.weight": embedding}}, tmp_path / "weights.pt")
    statistics = json.loads((tiny / "preprocessor_config.json").read_text())["action_config"]["libero_all"]
    (tmp_path / "statistics.json").write_text(json.dumps(statistics))
    script = REPOSITORY / "examples" / "post_training" / "export.py"
    command = [sys.executable, str(script), str(tmp_path / "weights.pt"), "--base", str(tiny), "--robot-type", "mine"]
    more = ["--statistics", str(tmp_path / "statistics.json"), "--async-train", "--out"]

    def exported(out: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more, str(out)], capture_output=True, text=True)

    assert exported(tmp_path / "out").returncode == 0
    libero = load_suite("libero")
    made = find_checkpoint(f"{tmp_path / 'out'}:preset=libero,robot_type=mine").build(libero)
    original = find_checkpoint(f"{tiny}:async_train=true").build(libero)
    assert made.spec.supported_prefixes == ("prefix", "rtc")
    request = Request(Episode("libero", "object", "t", 0, 7), 0, observations("libero", 1)[0])
    # the robot type's name is part of the sampling seed
    noise = torch.zeros(1, H, 32, dtype=torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda like: noise)
        assert np.array_equal(made.act([request])[0], original.act([request])[0])
    assert f"{tmp_path / 'out'} exists" in exported(tmp_path / "out").stderr
    torch.save({"module": {name: t for name, t in tensors.items() if "sink" not in name}}, tmp_path / "weights.pt")
    assert "lacks 1 tensors" in exported(tmp_path / "other").stderr and not (tmp_path / "other").exists()
