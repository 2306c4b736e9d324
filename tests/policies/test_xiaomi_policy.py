"""A checkpoint of the released shape: loading, single requests and batches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hub import folder_files, serve_hub, use_hub
from support.observations import observations

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from evalkit.episode import Episode
from evalkit.errors import EnvironmentProblem, EvalkitError, PolicyProblem, UsageError
from evalkit.policies.checkpoint import Checkpoint, find_checkpoint, load_checkpoints
from evalkit.policies.trust import Trust, confirm
from evalkit.policies.weights import locate
from evalkit.policies.xiaomi_robotics_0 import XiaomiRobotics0
from evalkit.policies.xiaomi_robotics_0 import loading as loading_room
from evalkit.policies.xiaomi_robotics_0.inference import Inference
from evalkit.policies.xiaomi_robotics_0.loading import LoadedCheckpoint, load
from evalkit.policies.xiaomi_robotics_0.requests import ModelRequest, presets
from evalkit.policy import Request
from evalkit.runner.options import RunOptions
from evalkit.runner.run import open_candidate
from evalkit.suite import Suite, load_suite

libero = presets()["libero"]
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite("libero")


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> LoadedCheckpoint:
    """Return the checkpoint in float32, in which equal chunks of different batches are near one another."""
    return load(locate(str(tiny), None, True), "auto", "float32", "auto")


@pytest.fixture(scope="module")
def asked() -> list[ModelRequest]:
    """Return requests whose prompts differ in length."""
    return [libero.build_request(o, "libero_all") for o in observations("libero", 6)]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """Return a copy of the checkpoint, to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def built(name: Path | str, suite: Suite, **parameters: Any) -> XiaomiRobotics0:
    policy = find_checkpoint(str(name)).having(parameters).build(suite)
    assert isinstance(policy, XiaomiRobotics0)
    return policy


# Loading


def test_a_directory_is_loaded_and_identified_by_its_content(tiny: Path, copy: Path, suite: Suite) -> None:
    policy = built(tiny, suite)
    metadata = policy.spec.metadata
    assert (policy.spec.chunk_size, policy.spec.observation_spec) == (10, libero.observation_spec)
    assert metadata["robot_type"] == "libero_all" and metadata["attention"] == "eager"
    assert metadata["dtype"] == metadata["buffers_dtype"] == "bfloat16" and "adapted_dtype" not in metadata
    assert metadata["libraries"]["transformers"].startswith("4.57.") and metadata["device"] == "cpu"
    assert policy.spec.batch_invariant
    same = built(copy, suite).spec.metadata
    (copy / "modeling_mibot.py").write_text((copy / "modeling_mibot.py").read_text() + "\n# changed\n")
    other = built(copy, suite).spec.metadata
    for name in ("weights_sha256", "config_sha256"):
        assert metadata[name] == same[name] == other[name]
    assert metadata["code_sha256"] == same["code_sha256"] != other["code_sha256"]


def test_other_weights_have_another_hash(tiny: Path, tmp_path: Path, suite: Suite) -> None:
    from evalkit.testing import build_tiny_vla

    other = built(build_tiny_vla(tmp_path / "other", seed=1), suite).spec.metadata
    assert other["weights_sha256"] != built(tiny, suite).spec.metadata["weights_sha256"]


def test_where_a_checkpoint_lies_is_not_what_it_is(
    tiny: Path, copy: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(name: str) -> tuple[Any, dict[str, Any]]:
        metadata = find_checkpoint(name).build(suite).spec.metadata
        return find_checkpoint(name).identity(), {k: v for k, v in metadata.items() if k != "where"}

    here = said(str(copy))
    (copy.parent / "link").symlink_to(copy)
    monkeypatch.chdir(copy)
    assert said(".") == said(f"{copy}/") == said(str(copy.parent / "link")) == here
    assert str(copy.parent) not in json.dumps(here)


def test_shards_in_a_folder_are_part_of_what_a_checkpoint_is(copy: Path) -> None:
    (copy / "shards").mkdir()
    (copy / "model.safetensors").rename(copy / "shards" / "one.safetensors")
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "shards/one.safetensors"}}))
    before = locate(str(copy), None, True).identity["weights_sha256"]
    with (copy / "shards" / "one.safetensors").open("ab") as file:
        file.write(b"more")
    assert locate(str(copy), None, True).identity["weights_sha256"] != before
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(UsageError, match="outside the checkpoint's directory"):
        locate(str(copy), None, True)


def test_attention_falls_back_and_says_why(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = ["flash_attention_2", "sdpa", "eager"]
    monkeypatch.setattr(loading_room, "_candidates", lambda attention, device: order)
    metadata = load(locate(str(tiny), None, True), "auto", "auto", "auto").metadata
    assert metadata["attention"] == "eager" and list(metadata["attention_rejected"]) == ["flash_attention_2", "sdpa"]


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16", "float32"])
def test_every_dtype_gives_chunks_and_is_recorded(tiny: Path, suite: Suite, dtype: str) -> None:
    """The released code embeds the flow time in bfloat16 whatever the dtype, and fails in any other as it is."""
    policy = built(tiny, suite, attention="eager", dtype=dtype)
    metadata = policy.spec.metadata
    released = dtype in ("auto", "bfloat16")
    assert metadata["dtype"] == ("bfloat16" if released else dtype)
    assert metadata["buffers_dtype"] == ("bfloat16" if released else "float32")
    assert metadata.get("adapted_dtype") == (None if released else ["t_embedder"])
    request = Request(Episode("libero", "object", "t", 0, 7), 0, observations("libero", 1)[0])
    assert policy.act([request])[0].shape == (10, 7)


@pytest.mark.parametrize(
    ("parameters", "kind", "message"),
    [
        (
            {"attention": "flash_attention_2"},
            EnvironmentProblem,
            "no attention implementation works on this machine.*[Ff]lash",
        ),
        ({"device": "cuda:0"}, EnvironmentProblem, "device 'cuda:0' cannot be used on this machine"),
        ({"device": "abacus"}, EnvironmentProblem, "device 'abacus' cannot be used on this machine"),
        ({"robot_type": "libero_goal"}, UsageError, "'libero_goal': this checkpoint knows libero_all, calvin"),
        ({"robot_type": "bridge_delta"}, UsageError, "'bridge_delta' is for simpler, not for libero"),
        ({"preset": "liberooo"}, UsageError, "unknown preset 'liberooo': did you mean libero"),
        ({"preset": "calvin"}, UsageError, "set robot_type=NAME"),
        ({"chunk": 4}, PolicyProblem, "chunks of 10, not of 4"),
        ({"max_batch": 0}, UsageError, "max_batch: Input should be greater"),
        ({"dtype": "int8"}, UsageError, "dtype: Input should be 'auto', 'bfloat16'"),
    ],
)
def test_what_cannot_be_is_one_line(
    tiny: Path, suite: Suite, parameters: dict[str, Any], kind: type[EvalkitError], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        built(tiny, suite, **parameters)
    assert str(error.value).startswith("checkpoint 'tiny'") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: missing"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 4096), "cannot be loaded"),
        (lambda d: _halve(d / "model.safetensors"), "cannot be loaded"),
        (lambda d: _drop_a_tensor(d / "model.safetensors"), "lack 1 of the model's tensors, action_output_layer"),
        (lambda d: (d / "config.json").unlink(), "config.json: has no model_type"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: has no model_type"),
        (lambda d: (d / "config.json").write_text('{"model_type": "gpt2"}'), "loads model_type mibot, not 'gpt2'"),
        (lambda d: (d / "preprocessor_config.json").unlink(), "no processor"),
        (lambda d: _forget(d / "preprocessor_config.json", "libero_all"), "this checkpoint knows calvin_abcd"),
        (lambda d: (d / "modeling_mibot.py").write_text("1 / 0"), "cannot be loaded: division by zero"),
        (lambda d: (d / "model.safetensors.index.json").write_text("[]"), "index.json: not a list of shards"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
            "model-2.safetensors: missing",
        ),
    ],
)
def test_a_damaged_checkpoint_is_one_line(copy: Path, suite: Suite, damage: Any, message: str) -> None:
    damage(copy)
    with pytest.raises(EvalkitError, match=message) as error:
        built(copy, suite)
    assert "\n" not in str(error.value)


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _drop_a_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if k != sorted(tensors)[0]}, path, metadata={"format": "pt"})


def _forget(path: Path, robot_type: str) -> None:
    content = json.loads(path.read_text())
    del content["action_config"][robot_type]
    path.write_text(json.dumps(content))


def test_missing_libraries_are_said_before_anything_is_asked_or_downloaded(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = loading_room.importlib.util.find_spec
    monkeypatch.setattr(loading_room.importlib.util, "find_spec", lambda name: None if name == "torch" else seen(name))
    options = RunOptions(suite, checkpoint="xiaomi-robotics-0-libero", trust=Trust(ask=lambda _: pytest.fail("asked")))
    with (
        pytest.raises(EnvironmentProblem, match=r"torch is not installed: pip install.*; --checkpoint oracle needs no"),
        open_candidate(suite, options),
    ):
        pass


def test_another_transformers_is_named(tiny: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_room.importlib.metadata, "version", lambda name: "5.9.0")
    with pytest.raises(EnvironmentProblem, match=r"transformers 5\.9\.0 is installed, .* needs 4\.57: pip install"):
        built(tiny, suite)


# Asking


def as_released(tiny: Path, request: ModelRequest) -> np.ndarray:
    """Compute a request's chunk step by step as the released server does, whose loading ends with a second cast."""
    from transformers import AutoModel
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    options = {"attn_implementation": "eager", "dtype": torch.bfloat16}
    model = AutoModel.from_pretrained(tiny, trust_remote_code=True, **options).to(torch.bfloat16)
    kind = get_class_from_dynamic_module("processing_mibot.MiBotProcessor", str(tiny))
    kind = type("Processor", (kind,), {"attributes": ["image_processor", "tokenizer"]})
    processor = kind.from_pretrained(tiny, use_fast=False)
    inputs = processor(
        text=[request.prompt], images=list(request.images), videos=None, padding=True, return_tensors="pt"
    )
    mask = processor.get_action_mask("libero_all").to(model.device, model.dtype)
    state = torch.from_numpy(request.state).to(model.device, model.dtype).view(1, 1, -1)
    output = model(**inputs, state=state, action_mask=mask, seed=request.seed)
    return np.asarray(processor.decode_action(output.actions, robot_type="libero_all")[0])


def test_one_request_is_asked_exactly_as_released(tiny: Path, asked: list[ModelRequest]) -> None:
    loaded = load(locate(str(tiny), None, True), "auto", "auto", "auto")
    chunks = Inference(loaded, "libero_all").chunks(asked[:2])
    for request, chunk in zip(asked, chunks, strict=False):
        assert chunk.shape == (10, 32) and chunk.dtype == np.float32
        assert (chunk == as_released(tiny, request)).all()


@pytest.fixture
def drawn(loaded: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Record the noise that each pass starts from."""
    noises: list[Any] = []
    step = loaded.model.dit_forward

    def first_of_five(**arguments: Any) -> Any:
        if not arguments["t"].any():
            noises.append(arguments["noisy_action"].clone())
        return step(**arguments)

    monkeypatch.setattr(loaded.model, "dit_forward", first_of_five)
    yield noises


def test_every_row_of_a_batch_starts_from_the_noise_of_its_own_request(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], drawn: list[Any]
) -> None:
    before = torch.get_rng_state()
    Inference(loaded, "libero_all").chunks(asked)
    single = torch.cat(drawn)
    drawn.clear()
    Inference(loaded, "libero_all", max_batch=8).chunks(asked)
    (batched,) = drawn
    assert torch.equal(batched, single) and len(torch.unique(single[:, 0, 0])) == len(asked)
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_of_mixed_prompts_answers_as_single_requests_do(
    loaded: LoadedCheckpoint, asked: list[ModelRequest]
) -> None:
    assert len({len(request.prompt) for request in asked}) > 2
    single = Inference(loaded, "libero_all").chunks(asked)
    batched = Inference(loaded, "libero_all", max_batch=4).chunks(asked)
    assert np.abs(np.array(single) - np.array(batched)).max() < 1e-4
    apart = [np.abs(a - b).max() for n, a in enumerate(single) for b in single[:n]]
    assert min(apart) > 1e-2, "the requests are too alike for this test to see a mix-up"


def test_an_invariant_batch_does_not_depend_on_its_company(loaded: LoadedCheckpoint, asked: list[ModelRequest]) -> None:
    inference = Inference(loaded, "libero_all", max_batch=4, batch_invariant=True)
    inference.check_invariance(asked[:2])
    alone = [inference.chunks([request])[0] for request in asked]
    rng = np.random.default_rng(0)
    for _ in range(6):
        order = rng.permutation(len(asked))[: rng.integers(1, len(asked) + 1)]
        for index, chunk in zip(order, inference.chunks([asked[i] for i in order]), strict=True):
            assert (chunk == alone[index]).all()


def test_invariance_that_cannot_be_kept_is_refused(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    inference = Inference(loaded, "libero_all", max_batch=4, batch_invariant=True)
    decode = loaded.processor.decode_action

    def by_place(actions: Any, robot_type: str) -> Any:
        return decode(actions, robot_type) + torch.arange(len(actions))[:, None, None] * 1e-7

    monkeypatch.setattr(loaded.processor, "decode_action", by_place)
    with pytest.raises(PolicyProblem, match="use max_batch=1"):
        inference.check_invariance(asked[:2])


def test_nan_cannot_hide_behind_a_rule(loaded: LoadedCheckpoint, asked: list[ModelRequest]) -> None:
    forward = loaded.model.forward

    def broken(**arguments: Any) -> Any:
        output = forward(**arguments)
        output.actions[0, 0, 6] = float("nan")
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.model, "forward", broken)
        chunk = Inference(loaded, "libero_all").chunks(asked[:1])[0]
    for preset in presets().values():
        assert np.isnan(preset.to_suite_actions(chunk)[:, :3]).all(), f"{preset.name} hides it"


def test_a_model_that_draws_otherwise_is_not_batched(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = loaded.model.forward

    def twice(**arguments: Any) -> Any:
        forward(**arguments)
        return forward(**arguments)

    monkeypatch.setattr(loaded.model, "forward", twice)
    with pytest.raises(PolicyProblem, match="draws its noise 2 times instead of once: use max_batch=1"):
        Inference(loaded, "libero_all", max_batch=2).chunks(asked[:2])


@pytest.fixture
def small_memory(loaded: LoadedCheckpoint, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Limit the memory to two requests at a time; return the batch sizes that were tried."""
    sizes: list[int] = []
    forward = loaded.model.forward

    def limited(**arguments: Any) -> Any:
        sizes.append(len(arguments["state"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(**arguments)

    monkeypatch.setattr(loaded.model, "forward", limited)
    return sizes


def test_out_of_memory_halves_the_batch_and_is_warned_about(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], small_memory: list[int]
) -> None:
    inference = Inference(loaded, "libero_all", max_batch=6)
    chunks = inference.chunks(asked)
    assert small_memory == [6, 3, 1, 1, 1, 3, 1, 1, 1]
    assert inference.warnings[0] == "out of memory with 6 requests in a pass: continued with 3"
    small_memory.clear()
    again = inference.chunks(asked)
    assert small_memory == [1] * 6, "the batch stays small"
    assert np.abs(np.array(chunks) - np.array(again)).max() < 1e-4


def test_out_of_memory_in_an_invariant_batch_ends_the_run(
    loaded: LoadedCheckpoint, asked: list[ModelRequest], small_memory: list[int]
) -> None:
    with pytest.raises(PolicyProblem, match="memory cannot hold 4 requests at a time: use a smaller max_batch"):
        Inference(loaded, "libero_all", max_batch=4, batch_invariant=True).chunks(asked)


def test_parameters_set_the_batch_mode(tiny: Path, suite: Suite) -> None:
    loose = built(tiny, suite, max_batch=4).spec
    fixed = built(f"{tiny}:batch_invariant=true", suite).spec
    assert not loose.batch_invariant and loose.metadata["batch"] == {"max_batch": 4, "fixed_shapes": False}
    assert fixed.batch_invariant and fixed.metadata["batch"] == {"max_batch": 8, "fixed_shapes": True}


# Trust


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("someone/some-vla", r"revision must be a full commit here \(evalkit\.policies\.trust\.confirm finds it\)"),
        (f"someone/some-vla:revision={'a' * 40}", "not on this machine, and its code was not allowed to run"),
        (f"xiaomi-robotics-0-libero:revision={'a' * 40},trust_remote_code=true", "may not be asked .HF_HUB_OFFLINE"),
        ("xiaomi-robotics-0-libero:source=/no/such/dir", "/no/such/dir: no such directory, and not a hub id"),
    ],
)
def test_unpinned_untrusted_or_absent_weights_are_refused(suite: Suite, name: str, message: str) -> None:
    with pytest.raises(EvalkitError, match=message):
        find_checkpoint(name).build(suite)


def test_a_known_revision_is_no_part_of_the_identity() -> None:
    for name, entry in load_checkpoints().items():
        released = name.startswith("xiaomi-")
        assert (entry.known_revision is not None) == released and entry.revision is None, "known is not verified"
        assert "known_revision" not in json.dumps(find_checkpoint(name).identity()) if released else True


def test_a_model_from_a_hub_asks_once_and_then_runs_without_it(
    tiny: Path, tmp_path: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []
    with serve_hub() as hub:
        commit = hub.publish("someone/some-vla", folder_files(tiny))
        use_hub(monkeypatch, hub.url, tmp_path / "cache")
        trust = Trust(ask=lambda question: not questions.append(question), lock=tmp_path / "evalkit.lock")
        first = confirm(find_checkpoint("someone/some-vla"), trust).build(suite).spec
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    again = confirm(find_checkpoint("someone/some-vla"), trust).build(suite).spec
    assert len(questions) == 1 and "modeling_mibot.py" in questions[0] and again == first
    local = find_checkpoint(str(tiny)).build(suite).spec.metadata
    changed = {name for name in {**local, **first.metadata} if local.get(name) != first.metadata.get(name)}
    assert changed == {"source", "revision", "weights_sha256", "where"} and first.metadata["revision"] == commit


def test_a_directory_for_a_released_checkpoint_is_trusted_if_it_is_named(tiny: Path, suite: Suite) -> None:
    checkpoint = confirm(find_checkpoint(f"xiaomi-robotics-0-libero:source={tiny}"), Trust())
    assert len(checkpoint.build(suite).spec.metadata["code_sha256"]) == 64


def test_a_directory_in_a_file_must_say_that_its_code_may_run(tiny: Path, tmp_path: Path, suite: Suite) -> None:
    own = tmp_path / "own.yaml"
    policy = "evalkit.policies.xiaomi_robotics_0:XiaomiRobotics0"
    entry = {"summary": "mine", "policy": policy, "source": str(tiny), "chunk": 10}
    own.write_text(json.dumps({"checkpoints": {"mine": entry, "trusted": {**entry, "trust_remote_code": True}}}))
    with pytest.raises(UsageError, match="contains Python code: set trust_remote_code=true"):
        find_checkpoint("mine", own).build(suite)
    assert find_checkpoint("trusted", own).build(suite).spec.chunk_size == 10


def test_a_checkpoint_knows_its_name() -> None:
    checkpoint = find_checkpoint("xiaomi-robotics-0-widowx")
    assert isinstance(checkpoint, Checkpoint) and checkpoint.parameters["robot_type"] == "bridge_delta"
    with pytest.raises(UsageError, match="checkpoint 'xiaomi-robotics-0-widowx' is for simpler, not for libero"):
        checkpoint.build(load_suite("libero"))
