"""Chunks that continue the running one: prefixes, real-time chunking, and conversions between action spaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from support.observations import observations

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from evalkit.episode import Episode
from evalkit.errors import PolicyProblem
from evalkit.execution import Prefix
from evalkit.policies.checkpoint import find_checkpoint
from evalkit.policies.weights import locate
from evalkit.policies.xiaomi_robotics_0 import XiaomiRobotics0
from evalkit.policies.xiaomi_robotics_0.continuation import Continuation
from evalkit.policies.xiaomi_robotics_0.guidance import soft_mask
from evalkit.policies.xiaomi_robotics_0.inference import Inference
from evalkit.policies.xiaomi_robotics_0.loading import LoadedCheckpoint, load
from evalkit.policies.xiaomi_robotics_0.post_training import PostTraining
from evalkit.policies.xiaomi_robotics_0.requests import ModelRequest, presets
from evalkit.policy import Request
from evalkit.suite import load_suite

PRESETS = presets()
pytestmark = pytest.mark.torch

STD = 0.25  # of every action dimension that the tiny checkpoint uses
H, S = 10, 5


POST_TRAINED = PostTraining(local_window=4, async_train=True)


def loaded_from(folder: Path) -> LoadedCheckpoint:
    return load(locate(str(folder), None, True), "auto", "float32", "auto")


def scale_velocity(loaded: LoadedCheckpoint, gain: float) -> None:
    with torch.no_grad():
        loaded.model.action_output_layer.layers[-1].weight.mul_(gain)


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> LoadedCheckpoint:
    return loaded_from(tiny)


@pytest.fixture(scope="module")
def even(tiny: Path) -> LoadedCheckpoint:
    """Return the tiny checkpoint with a quarter of the velocity, so that five steps follow its flow well."""
    model = loaded_from(tiny)
    scale_velocity(model, 0.25)
    return model


@pytest.fixture(scope="module")
def asked() -> list[ModelRequest]:
    return [PRESETS["libero"].build_request(o, "libero_all") for o in observations("libero", 6)]


@pytest.fixture(scope="module")
def chunks(loaded: LoadedCheckpoint, asked: list[ModelRequest]) -> list[np.ndarray]:
    """Return the replies to the requests without a prefix."""
    return Inference(loaded, "libero_all").chunks(asked)


def continuing(request: ModelRequest, left: np.ndarray, committed: int, kind: Any = "rtc") -> ModelRequest:
    return replace(request, prefix=Prefix(left, committed, kind))


# Guidance


def test_the_mask_is_the_papers() -> None:
    mask = soft_mask(committed=2, length=6, chunk_size=8)
    falling = [4 / 5, 3 / 5, 2 / 5, 1 / 5]  # (6 - i) / (6 - 2 + 1)
    between = [c * (math.e**c - 1) / (math.e - 1) for c in falling]
    assert np.allclose(mask, [1, 1, *between, 0, 0])
    assert np.allclose(soft_mask(3, 3, 5), [1, 1, 1, 0, 0])
    first = 3 / 4
    assert np.isclose(soft_mask(0, 3, 5)[0], first * math.expm1(first) / math.expm1(1))


def overlap_errors(model: LoadedCheckpoint, asked: list[ModelRequest], committed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return naive and guided distances (requests, d) to the running chunk's frozen steps, in standard deviations."""
    inference = Inference(model, "libero_all")
    left = [chunk[S:] for chunk in inference.chunks(asked)[:-1]]
    naive = inference.chunks(asked[1:])
    guided = inference.chunks([continuing(r, a, committed) for r, a in zip(asked[1:], left, strict=True)])

    def errors(replies: list[np.ndarray]) -> np.ndarray:
        apart = [(reply[:committed] - a[:committed]) / STD for reply, a in zip(replies, left, strict=True)]
        return np.linalg.norm(apart, axis=2)

    return errors(naive), errors(guided)


@pytest.mark.parametrize("committed", [2, 4])
@pytest.mark.parametrize(("gain", "times"), [(1.0, 4), (0.5, 15)])
def test_frozen_steps_come_to_the_running_chunk(
    tiny: Path, asked: list[ModelRequest], gain: float, times: float, committed: int
) -> None:
    """Test guidance on flows that five Euler steps follow with different accuracy.

    ``gain`` scales the model's velocities: the more accurate the steps are, the nearer guidance comes.
    Measured: 6 to 9 times nearer for the checkpoint as it is built, 20 to 23 times with half of its velocity.
    """
    model = loaded_from(tiny)
    scale_velocity(model, gain)
    naive, guided = overlap_errors(model, asked, committed)
    assert naive.mean() > 3 and (guided.mean(axis=1) < naive.mean(axis=1)).all()
    assert guided.mean() * times < naive.mean()


@pytest.mark.parametrize(("attention", "dtype"), [("auto", "auto"), ("eager", "float16")])
def test_every_attention_and_dtype_is_guided(tiny: Path, asked: list[ModelRequest], attention: Any, dtype: Any) -> None:
    model = load(locate(str(tiny), None, True), attention, dtype, "auto")
    scale_velocity(model, 0.5)
    naive, guided = overlap_errors(model, asked[:3], committed=2)
    assert guided.mean() * 8 < naive.mean()


def test_a_smaller_weight_guides_less(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], chunks: list[np.ndarray]
) -> None:
    request = continuing(asked[1], chunks[0][S:], 2)
    apart = [
        np.abs(
            Inference(loaded, "libero_all", max_guidance=weight).chunks([request])[0][:2] - chunks[0][S : S + 2]
        ).max()
        for weight in (0.1, 1.0, 5.0)
    ]
    assert apart[0] > apart[1] > apart[2]


def test_steps_beyond_the_running_chunk_stay_free(loaded: LoadedCheckpoint, asked: list[ModelRequest]) -> None:
    inference = Inference(loaded, "libero_all")
    left = inference.chunks(asked[:1])[0][S:]
    drawn = [replace(request, seed=seed) for request in asked[1:4] for seed in (1, 2)]
    naive = np.array(inference.chunks(drawn))[:, H - S :, :7]
    guided = np.array(inference.chunks([continuing(request, left, 2) for request in drawn]))[:, H - S :, :7]
    between_seeds = [np.abs(free[::2] - free[1::2]).mean() for free in (naive, guided)]
    assert 0.75 < between_seeds[1] / between_seeds[0] < 1.33


def test_one_flow_step_is_the_papers_formula(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], chunks: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare with the whole Jacobian, from central differences."""
    left = chunks[0][S:]
    plain, stages = loaded.model.dit_forward, []

    def recorded(**arguments: Any) -> Any:
        stages.append({**arguments, "noisy_action": arguments["noisy_action"].detach()})
        return plain(**arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loaded.model, "dit_forward", recorded)
        Inference(loaded, "libero_all").chunks([continuing(asked[1], left, 2)])
    assert [float(stage["t"]) for stage in stages] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    x, after = (stages[n]["noisy_action"] for n in (2, 3))

    def heading(noisy: Any) -> Any:
        with torch.no_grad():
            return noisy + 0.6 * loaded.model.dit_forward(**{**stages[2], "noisy_action": noisy})

    target = torch.zeros_like(x)
    target[0, :5] = torch.from_numpy(left / STD)
    weighted = torch.from_numpy(soft_mask(2, 5, H))[:, None] * (target - heading(x))
    weighted[..., 7:] = 0
    pull = torch.zeros_like(x)
    for index in np.ndindex(1, H, 7):
        nudge = torch.zeros_like(x)
        nudge[index] = 3e-3
        pull[index] = ((heading(x + nudge) - heading(x - nudge)) / 6e-3 * weighted).sum()
    velocity = (heading(x) - x) / 0.6 + (0.4**2 + 0.6**2) / (0.4 * 0.6) * pull
    difference = (x + velocity / 5 - after)[..., :7].abs().max()
    assert difference < 0.005 and pull.abs().max() > 1


# One pass, many rows


@pytest.fixture(scope="module")
def mixed(asked: list[ModelRequest], chunks: list[np.ndarray]) -> list[ModelRequest]:
    """Return requests with prefixes of every kind and length, and without."""
    return [
        asked[0],
        continuing(asked[1], chunks[0][5:], 2),
        continuing(asked[2], chunks[1][9:], 1),
        continuing(asked[3], chunks[2][3:], 0),
        continuing(asked[4], chunks[3][6:9], 3, "prefix"),
        continuing(asked[5], chunks[4][2:], 5),
        continuing(asked[0], chunks[5][4:5], 1, "prefix"),
    ]


def test_a_batch_of_mixed_prefixes_answers_as_single_requests_do(
    even: LoadedCheckpoint, mixed: list[ModelRequest]
) -> None:
    """Use a quarter of the velocity: with all of it, rounding the last bit of a prefix moves a chunk by up to 2e-3."""
    single = Inference(even, "libero_all", post_training=POST_TRAINED).chunks(mixed)
    for size in (3, 8):
        batched = Inference(even, "libero_all", max_batch=size, post_training=POST_TRAINED).chunks(mixed)
        assert np.abs(np.array(single) - np.array(batched)).max() < 1e-4
    swapped = [*mixed[:1], replace(mixed[1], prefix=mixed[5].prefix), *mixed[2:]]
    other = Inference(even, "libero_all", max_batch=8, post_training=POST_TRAINED).chunks(swapped)
    apart = [np.abs(a - b).max() for a, b in zip(single, other, strict=True)]
    assert apart[1] > 1e-2 and max(apart[:1] + apart[2:]) < 1e-4, "a row's prefix reached another row"


def test_an_invariant_batch_does_not_depend_on_its_company(loaded: LoadedCheckpoint, mixed: list[ModelRequest]) -> None:
    inference = Inference(loaded, "libero_all", max_batch=4, batch_invariant=True, post_training=POST_TRAINED)
    inference.check_invariance(mixed[:2])
    alone = [inference.chunks([request])[0] for request in mixed]
    rng = np.random.default_rng(0)
    for _ in range(3):
        order = rng.permutation(len(mixed))
        for index, chunk in zip(order, inference.chunks([mixed[i] for i in order]), strict=True):
            assert (chunk == alone[index]).all()


def test_no_prefix_is_the_plain_pass_bit_for_bit(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], chunks: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros((0, 32), np.float32)
    monkeypatch.setattr("evalkit.policies.xiaomi_robotics_0.continuation.guided", None)  # not called
    for kind in ("prefix", "rtc"):
        replies = Inference(loaded, "libero_all").chunks([continuing(r, nothing, 0, kind) for r in asked[:3]])
        assert all((a == b).all() for a, b in zip(replies, chunks, strict=False))


def test_with_nothing_committed_the_overlap_still_pulls(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], chunks: list[np.ndarray]
) -> None:
    """Guide at delay 0 as the authors' evaluation does; ignore a ``prefix`` without committed actions."""
    left = chunks[0][S:]
    inference = Inference(loaded, "libero_all")
    naive = np.abs(chunks[1][0] - left[0])[:7].mean()
    assert np.abs(inference.chunks([continuing(asked[1], left, 0)])[0][0] - left[0])[:7].mean() < naive / 2
    trained = Inference(loaded, "libero_all", post_training=POST_TRAINED)
    assert (trained.chunks([continuing(asked[1], left, 0, "prefix")])[0] == trained.chunks(asked[1:2])[0]).all()


# What is left as it was


def test_the_model_is_as_it_was(
    loaded: LoadedCheckpoint, mixed: list[ModelRequest], chunks: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = list(loaded.model.parameters())
    parameters[0].requires_grad_(False)
    before = (dict(vars(loaded.model)), [p.requires_grad for p in parameters])

    def unchanged() -> bool:
        now = (dict(vars(loaded.model)), [p.requires_grad for p in parameters])
        return now == before and all(p.grad is None for p in parameters) and torch.is_grad_enabled()

    try:
        inference = Inference(loaded, "libero_all", post_training=POST_TRAINED)
        inference.chunks(mixed)
        assert unchanged() and not loaded.model.rotary_emb._forward_pre_hooks
        layer, calls = type(loaded.model.dit.layers[0]).forward, []

        def fails(self: Any, *arguments: Any, **named: Any) -> Any:
            calls.append(loaded.model.dit_forward)
            if len(calls) == 3:
                raise RuntimeError("of the model's own")
            return layer(self, *arguments, **named)

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="of the model's own"):
            patch.setattr(type(loaded.model.dit.layers[0]), "forward", fails)
            inference.chunks(mixed[1:2])
        assert len(calls) == 3 and unchanged() and not loaded.model.rotary_emb._forward_pre_hooks
        assert (Inference(loaded, "libero_all").chunks(mixed[:1])[0] == chunks[0]).all()
    finally:
        parameters[0].requires_grad_(True)


def test_out_of_memory_in_a_guided_pass_halves_the_batch(
    loaded: LoadedCheckpoint, mixed: list[ModelRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = mixed[:4]
    single = Inference(loaded, "libero_all").chunks(asked)
    step = type(loaded.model).dit_forward

    def limited(self: Any, **arguments: Any) -> Any:
        if len(arguments["noisy_action"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, **arguments)

    monkeypatch.setattr(type(loaded.model), "dit_forward", limited)
    inference = Inference(loaded, "libero_all", max_batch=4)
    assert np.abs(np.array(inference.chunks(asked)) - np.array(single)).max() < 1e-4
    assert inference.warnings == ["out of memory with 4 requests in a pass: continued with 2"]


# Models that cannot


def calls_otherwise(change: Callable[[Any, dict[str, Any]], Any]) -> Callable[[Any], Any]:
    """Return a forward whose five calls of ``dit_forward`` are made by ``change``."""

    def forward_of(model: Any) -> Any:
        forward = type(model).forward

        class Changed:
            def __getattr__(self, name: str) -> Any:
                return getattr(model, name)

            def dit_forward(self, **arguments: Any) -> Any:
                return change(model.dit_forward, arguments)

        return lambda **arguments: forward(Changed(), **arguments)

    return forward_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda step, a: step(a.pop("noisy_action"), **a), r"does not call dit_forward\(noisy_action=, t=, \.\.\.\)"),
        (lambda step, a: step(x=a.pop("noisy_action"), **a), r"does not call dit_forward\(noisy_action=, t=, \.\.\.\)"),
        (lambda step, a: a["noisy_action"], "does not call its dit_forward"),
        (lambda step, a: step(**{**a, "t": 1 - a["t"]}), "not at times from 0 up to 1 but at 1, 0.8, 0.6, 0.4, 0.2"),
    ],
)
def test_a_flow_of_another_kind_is_refused(
    loaded: LoadedCheckpoint, mixed: list[ModelRequest], monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    monkeypatch.setattr(loaded.model, "forward", calls_otherwise(change)(loaded.model))
    with pytest.raises(PolicyProblem, match=message):
        Inference(loaded, "libero_all").chunks(mixed[1:2])
    assert "dit_forward" not in vars(loaded.model)


def test_a_flow_without_gradient_is_refused(
    loaded: LoadedCheckpoint, mixed: list[ModelRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(loaded.model), "dit_forward", torch.no_grad()(type(loaded.model).dit_forward))
    with pytest.raises(PolicyProblem, match="dit_forward gives no gradient"):
        Inference(loaded, "libero_all").chunks(mixed[1:2])


def test_a_model_says_what_it_continues(tiny: Path, tmp_path: Path, loaded: LoadedCheckpoint) -> None:
    libero = load_suite("libero")
    assert find_checkpoint(f"{tiny}:async_train=true").build(libero).spec.supported_prefixes == ("prefix", "rtc")
    policy = find_checkpoint(str(tiny)).build(libero)
    assert policy.spec.supported_prefixes == ("rtc",)
    prefix = Prefix(np.zeros((2, 7), np.float32), 2, "prefix")
    request = Request(Episode("libero", "object", "t", 0, 7), 0, observations("libero", 1)[0], prefix)
    with pytest.raises(PolicyProblem, match=r"cannot continue a prefix of kind prefix \(supported: rtc\)"):
        policy.act([request])
    mask = loaded.processor.get_action_mask("libero_all")
    other = Continuation(SimpleNamespace(config=None), loaded.processor, "libero_all", mask, 5.0)
    assert other.kinds == ()
    with pytest.raises(PolicyProblem, match=r"cannot continue a prefix of kind rtc \(supported: none\)"):
        other.normalize(Prefix(np.zeros((2, 32), np.float32), 2, "rtc"))


# Prefixes


@pytest.mark.parametrize(
    ("preset_name", "robot_type"),
    [
        ("libero", "libero_all"),
        ("calvin", "calvin_abcd_orig"),
        ("widowx", "bridge_delta"),
        ("google_robot", "fractal_delta"),
        ("metaworld", "metaworld"),
    ],
)
def test_a_reply_begins_with_the_committed_actions(loaded: LoadedCheckpoint, preset_name: str, robot_type: str) -> None:
    preset, inference = PRESETS[preset_name], Inference(loaded, robot_type, post_training=POST_TRAINED)
    first, then = (preset.build_request(o, robot_type) for o in observations(preset_name, 2))
    held = preset.to_suite_actions(inference.chunks([first])[0])[1:3]
    reply = inference.chunks([continuing(then, preset.to_model_actions(held), 2, "prefix")])[0]
    assert np.allclose(preset.to_suite_actions(reply)[:2], held, atol=1e-5)
    assert not np.allclose(reply[2:], inference.chunks([then])[0][2:], atol=1e-3)


def test_the_policy_takes_a_prefix_in_the_suites_actions(tiny: Path) -> None:
    policy = find_checkpoint(f"{tiny}:async_train=true,dtype=float32").build(load_suite("libero"))
    assert isinstance(policy, XiaomiRobotics0)
    episode = Episode("libero", "object", "t", 0, 7)
    before, now = (Request(episode, step, o) for step, o in enumerate(observations("libero", 2)))
    left = policy.act([before])[0][S:]
    naive, held, guided = policy.act(
        [now, replace(now, prefix=Prefix(left[:3], 3, "prefix")), replace(now, prefix=Prefix(left, 3, "rtc"))]
    )
    assert np.allclose(held[:3], left[:3], atol=1e-6)
    assert np.abs(guided[:3] - left[:3]).mean() < np.abs(naive[:3] - left[:3]).mean() / 3


class Statistics:
    """A processor with its own statistics, which differ between time indices."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.mean = torch.from_numpy(rng.normal(size=(1, 4, 32)).astype(np.float32))
        self.std = torch.from_numpy(10 ** rng.uniform(-4.5, 1, (1, 4, 32)).astype(np.float32))
        self.std[..., 7:] = 0
        self.mask = (self.std > 1e-5).float()

    def decode_action(self, actions: Any, robot_type: str) -> Any:
        return actions.float() * self.std + self.mean


def test_actions_are_normalised_by_the_statistics_of_their_place_in_the_new_chunk() -> None:
    processor = Statistics()
    continuation = Continuation(SimpleNamespace(), processor, "any", processor.mask, 5.0, POST_TRAINED)
    rng = np.random.default_rng(1)
    actions = rng.normal(size=(6, 32)).astype(np.float32)
    wanted = continuation.normalize(Prefix(actions[:3], 2, "prefix"))
    assert wanted is not None and (wanted.committed, wanted.length) == (2, 3)
    expected = np.zeros((4, 32))
    mean, std = processor.mean[0].double().numpy(), processor.std[0].double().numpy()
    expected[:3, :7] = (actions[:3, :7] - mean[:3, :7]) / std[:3, :7]
    assert np.allclose(wanted.actions[0], expected, rtol=1e-5, atol=1e-6)
    longer = continuation.normalize(Prefix(actions, 5, "prefix"))
    assert longer is not None and (longer.committed, longer.length) == (4, 4)


# A suite's actions as the model decodes them


def vectors(largest: float) -> st.SearchStrategy[list[float]]:
    """Return rotation vectors up to about the angle ``largest``."""
    part = st.integers(-1000, 1000).map(lambda n: n / 1000 * largest / math.sqrt(3)) | st.just(1e-9)
    return st.lists(part, min_size=3, max_size=3)


def actions_of(preset_name: str, largest: float) -> st.SearchStrategy[np.ndarray]:
    """Return (K, A) float32 in the suite's action space."""
    any_value = st.floats(-1, 1, width=32)
    if preset_name == "metaworld":
        row = st.lists(any_value, min_size=4, max_size=4)
    else:
        gripper = any_value if preset_name in ("libero", "google_robot") else st.sampled_from([-1.0, 1.0])
        place = st.lists(any_value, min_size=3, max_size=3)
        row = st.tuples(place, vectors(largest), gripper).map(lambda parts: [*parts[0], *parts[1], parts[2]])
    return st.lists(row, min_size=0, max_size=6).map(
        lambda rows: np.array(rows, np.float32).reshape(len(rows), 4 if preset_name == "metaworld" else 7)
    )


@pytest.mark.parametrize("preset_name", sorted(PRESETS))
@hypothesis_settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_actions_survive_the_way_to_the_model_and_back(preset_name: str, data: st.DataObject) -> None:
    preset = PRESETS[preset_name]
    actions = data.draw(actions_of(preset_name, largest=1.5))
    decoded = preset.to_model_actions(actions)
    assert decoded.shape == (len(actions), 32) and decoded.dtype == np.float32
    assert not decoded[:, actions.shape[1] :].any()
    if len(actions):
        assert np.allclose(preset.to_suite_actions(decoded), actions, atol=1e-5)


@pytest.mark.parametrize("preset_name", ["widowx", "google_robot"])
@hypothesis_settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_large_turns_come_back_as_the_same_rotation(preset_name: str, data: st.DataObject) -> None:
    vector = np.array(data.draw(vectors(largest=6.0)), np.float32)
    action = np.concatenate([np.zeros(3), vector, [1.0]]).astype(np.float32)[None]
    decoded = PRESETS[preset_name].to_model_actions(action)
    back = PRESETS[preset_name].to_suite_actions(decoded)[0, 3:6]
    turned = Rotation.from_euler("xyz", decoded[0, 3:6].astype(float)).as_matrix()
    assert np.allclose(turned, Rotation.from_rotvec(vector.astype(float)).as_matrix(), atol=1e-5)
    assert np.allclose(Rotation.from_rotvec(back.astype(float)).as_matrix(), turned, atol=1e-5)


def test_grippers_are_inverted_by_their_rules() -> None:
    def gripper(preset_name: str, values: list[float]) -> list[float]:
        actions = np.zeros((len(values), 7), np.float32)
        actions[:, 6] = values
        return PRESETS[preset_name].to_model_actions(actions)[:, 6].tolist()

    assert gripper("calvin", [1.0, -1.0]) == [1.0, -1.0]
    assert gripper("widowx", [1.0, -1.0]) == [1.0, 0.0]
    assert gripper("google_robot", [1.0, 0.0, -1.0]) == [0.0, 0.5, 1.0]
