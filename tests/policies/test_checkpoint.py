from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml

from evalkit.episode import Episode
from evalkit.errors import EvalkitError, PolicyProblem, UsageError
from evalkit.observation import Observation
from evalkit.policies.checkpoint import Checkpoint, Entry, find_checkpoint, load_checkpoints
from evalkit.policy import Request
from evalkit.suite import load_suite


def request_at(step: int, scene: int = 0, plan: np.ndarray | None = None) -> Request:
    return Request(Episode("pointmass", "near", "left", scene, 3), step, Observation("go left", oracle_plan=plan))


@pytest.mark.parametrize("name", sorted(load_checkpoints()))
def test_every_checkpoint_says_what_it_is(name: str) -> None:
    assert load_checkpoints()[name].summary


def test_parameters_can_be_set_where_a_checkpoint_is_named(pointmass: str) -> None:
    checkpoint = find_checkpoint("oracle-noisy:noise=0.25,chunk=5")
    assert checkpoint.parameters == {"noise": 0.25, "chunk": 5}
    assert checkpoint.build(load_suite(pointmass)).spec.chunk_size == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("orcale", "unknown checkpoint 'orcale': did you mean oracle"),
        ("oracle:noise", "key=value"),
        ("oracle:colour=red", "checkpoint 'oracle': colour"),
        ("oracle:chunk=0", "chunk: Input should be greater than or equal to 1"),
        ("oracle:chunk=many", "chunk"),
    ],
)
def test_bad_names_and_parameters_are_refused(pointmass: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_checkpoint(text).build(load_suite(pointmass))


@pytest.mark.parametrize(
    "entry",
    [
        Entry(summary="", policy="no.such.module:Policy"),
        Entry(summary="", policy="evalkit.policies.scripted:Nobody"),
        Entry(summary="", policy="builtins:len"),
        Entry(summary="", policy="evalkit.policies.scripted:Zero", suites=["libero"]),
    ],
)
def test_a_checkpoint_that_cannot_be_built_is_explained(pointmass: str, entry: Entry) -> None:
    with pytest.raises(EvalkitError) as error:
        Checkpoint("mine", entry).build(load_suite(pointmass))
    assert isinstance(error.value, PolicyProblem | UsageError)


@pytest.mark.parametrize("where", ["module", "factory"])
def test_code_that_ends_the_process_is_a_problem_of_the_policy(
    pointmass: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    code = "import sys\n" + (
        "sys.exit(0)" if where == "module" else "from evalkit.policies.scripted import ScriptedParameters\n"
    )
    code += "def Mine(suite, parameters: ScriptedParameters):\n    sys.exit(0)\n" if where == "factory" else ""
    (tmp_path / f"ends_{where}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PolicyProblem, match="SystemExit"):
        Checkpoint("mine", Entry(summary="", policy=f"ends_{where}:Mine")).build(load_suite(pointmass))


def test_a_users_parameter_called_name_is_the_users(pointmass: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("sized")
    code = """
from evalkit.policies.scripted import ScriptedParameters, Zero
class Parameters(ScriptedParameters):
    name: str = "small"
def Mine(suite, parameters: Parameters):
    policy = Zero(suite, parameters)
    policy.name = parameters.name
    return policy
"""
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "sized", module)
    checkpoint = Checkpoint("mine", Entry(summary="", policy="sized:Mine"), {"name": "large"})
    assert checkpoint.build(load_suite(pointmass)).name == "large"  # type: ignore[attr-defined]
    assert checkpoint.identity()["parameters"]["name"] == "large"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoints: {a: {summary: s, policy: 'm:f'}, a: {summary: t, policy: 'm:f'}}", "'a' appears twice"),
        ("checkpoints: {'a:b': {summary: s, policy: 'm:f'}}", "checkpoints.a:b"),
        ("checkpoints: {a: 3}", "checkpoints.a: must be a mapping of names to values"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_checkpoints(tmp_path / "own.yaml")


def test_splits_that_do_not_exist_are_named(pointmass: str) -> None:
    entry = Entry(summary="", policy="evalkit.policies.scripted:Zero", splits={"pointmass": ["near", "nowhere"]})
    with pytest.raises(UsageError, match=r"splits\.pointmass: no split 'nowhere'; there are: near, far"):
        Checkpoint("mine", entry).build(load_suite(pointmass))


def test_a_directory_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    with pytest.raises(UsageError, match=r"a:b: config\.json"):
        find_checkpoint(str(tmp_path / "a:b"))
    with pytest.raises(UsageError, match=r"unknown checkpoint|no such directory"):
        find_checkpoint("~nobody-here/x")


@pytest.mark.parametrize("name", ["random", "oracle-noisy"])
def test_a_sampled_chunk_depends_on_its_own_request_alone(pointmass: str, name: str) -> None:
    policy = find_checkpoint(name).build(load_suite(pointmass))
    plan = np.zeros((10, 2), np.float32)
    requests = [request_at(step, scene, plan) for scene in range(3) for step in (0, 10)]
    together = policy.act(requests)
    apart = [policy.act([r])[0] for r in reversed(requests)][::-1]
    assert all((a == b).all() and a.dtype == np.float32 for a, b in zip(together, apart, strict=True))
    assert len({chunk.tobytes() for chunk in together}) == len(requests)
    assert all(np.abs(chunk).max() <= 1 for chunk in together)


def test_the_oracle_returns_the_plan_and_hold_holds(pointmass: str) -> None:
    suite = load_suite(pointmass)
    plan = np.linspace(-1, 1, 20, dtype=np.float32).reshape(10, 2)
    assert (find_checkpoint("oracle").build(suite).act([request_at(0, plan=plan)])[0] == plan).all()
    assert not find_checkpoint("zero").build(suite).act([request_at(0)])[0].any()


def test_only_a_policy_that_looks_asks_for_cameras(pointmass: str) -> None:
    suite = load_suite(pointmass)
    assert find_checkpoint("random").build(suite).spec.observation_spec.cameras == ()
    assert find_checkpoint("random:cameras=all").build(suite).spec.observation_spec.cameras == ("above",)


# Files of one's own


def own_file(tmp_path: Path, **fields: object) -> Path:
    entry = {"summary": "mine", "policy": "evalkit.policies.scripted:Random", **fields}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"checkpoints": {"mine": {k: v for k, v in entry.items() if v is not None}}}))
    return path


def test_a_users_file_adds_checkpoints(tmp_path: Path, pointmass: str) -> None:
    own = own_file(tmp_path, parameters={"chunk": 3})
    assert find_checkpoint("mine", own).build(load_suite(pointmass)).spec.chunk_size == 3
    assert find_checkpoint("oracle", own).id == "oracle"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"revision": "a branch"}, r"own.yaml: checkpoints.mine.revision: String should match pattern"),
        ({"chunk": 0}, "checkpoints.mine.chunk: Input should be greater"),
        ({"policy": "scripted"}, "checkpoints.mine.policy: 'scripted' must be module:name, such as"),
        ({"summary": None}, "checkpoints.mine.summary: is missing"),
        ({"robot-type": "x"}, r"own.yaml: checkpoints.mine.robot-type: unknown key; did you mean 'robot_type'\?"),
        ({"colour": "red"}, "checkpoints.mine.colour: unknown key; known here: summary, policy, source, revision,"),
        (
            {"published": {"metric": "success rate", "source": "x", "score": {"libero": 1.0}}},
            r"mine.published.score: unknown key; did you mean 'scores'\?",
        ),
        ({"published": {"metric": "success rate", "source": "x", "scores": {}}}, "mine.published.scores"),
    ],
)
def test_a_bad_entry_is_named_with_its_field(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_checkpoint("oracle", own_file(tmp_path, **fields))


def test_a_users_file_cannot_take_a_name_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("checkpoints: {oracle: {summary: mine, policy: 'a:b'}}")
    with pytest.raises(UsageError, match=r"own.yaml: checkpoints.oracle: evalkit has one of that name"):
        load_checkpoints(path)
    with pytest.raises(UsageError, match=r"nowhere.yaml: cannot be read"):
        load_checkpoints(tmp_path / "nowhere.yaml")


def test_the_six_released_checkpoints_are_there_with_what_was_published() -> None:
    released = {n: e for n, e in load_checkpoints().items() if e.source}
    assert {e.source for e in released.values()} == {
        f"XiaomiRobotics/Xiaomi-Robotics-0{tail}"
        for tail in ("", "-LIBERO", "-Calvin-ABCD_D", "-Calvin-ABC_D", "-SimplerEnv-Google-Robot", "-SimplerEnv-WidowX")
    }
    scores: dict[str, float] = {}
    for entry in released.values():
        scores |= entry.published.scores if entry.published else {}
    suites = [scores[f"libero/{split}"] for split in ("spatial", "object", "goal", "long")]
    assert sum(suites) / 4 == pytest.approx(scores["libero"])
    assert scores["calvin/abcd_d"] == 4.8 and scores["simpler/widowx"] == 0.792


def test_settings_over_a_name(pointmass: str) -> None:
    checkpoint = find_checkpoint("random:chunk=4").having({"chunk": 6})
    assert checkpoint.build(load_suite(pointmass)).spec.chunk_size == 6
    with pytest.raises(UsageError, match="--max-batch: checkpoint 'random' has no such parameter"):
        find_checkpoint("random").having({"max_batch": 4})


def test_a_path_that_is_no_checkpoint_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config.json: has no model_type"):
        find_checkpoint(str(tmp_path))
    with pytest.raises(UsageError, match="no such directory"):
        find_checkpoint(str(tmp_path / "nowhere"))


# Policies beside the file that names them

POLICY = """
from pydantic import BaseModel
from evalkit.policies.checkpoint import NamedParameters
from evalkit.policies.scripted import ScriptedParameters, Zero
from tuning import SHARE

class Parameters(ScriptedParameters):
    share: float = SHARE

class Plain(BaseModel):
    chunk: int = 2

class Named(NamedParameters):
    chunk: int = 2

def Mine(suite, parameters: Parameters):
    policy = Zero(suite, parameters)
    policy.share = parameters.share
    return policy

def Bare(suite, parameters):
    return Zero(suite, ScriptedParameters())

class Blank:
    def __init__(self, suite, parameters):
        pass

def Lost(suite, parameters: "Nowhere"):
    return Zero(suite, ScriptedParameters())

def Loose(suite, parameters: Plain):
    return Zero(suite, ScriptedParameters(chunk=parameters.chunk))

def Titled(suite, parameters: Named):
    policy = Zero(suite, ScriptedParameters(chunk=parameters.chunk))
    policy.title = parameters.display_name
    return policy
"""


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A checkpoint file in a folder with the module that it names, and one that this module imports."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own_policy.py").write_text(POLICY)
    (folder / "tuning.py").write_text("SHARE = 0.25\n")
    names = ("Mine", "Bare", "Blank", "Lost", "Loose", "Titled")
    entries = {name.lower(): {"summary": "mine", "policy": f"own_policy:{name}"} for name in names}
    (folder / "own.yaml").write_text(yaml.safe_dump({"checkpoints": entries}))
    return folder / "own.yaml"


def test_a_module_beside_the_file_is_imported_and_the_import_path_stays(pointmass: str, beside: Path) -> None:
    path = list(sys.path)
    checkpoint = find_checkpoint("mine", beside).having({"share": 0.5})
    assert checkpoint.build(load_suite(pointmass)).share == 0.5  # type: ignore[attr-defined]
    assert find_checkpoint("mine", beside).identity() == {
        "id": "mine",
        "policy": "own_policy:Mine",
        "parameters": {"chunk": 10, "cameras": "none", "share": 0.25},
    }
    assert sys.path == path and not {"own_policy", "tuning"} & set(sys.modules)


def test_a_module_of_that_name_elsewhere_does_not_win(
    pointmass: str, beside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("own_policy", "tuning"):
        (other / f"{name}.py").write_text(POLICY if name == "own_policy" else "SHARE = 0.75\n")
    monkeypatch.syspath_prepend(str(other))
    theirs = importlib.import_module("own_policy")
    try:
        assert find_checkpoint("mine", beside).build(load_suite(pointmass)).share == 0.25  # type: ignore[attr-defined]
        assert sys.modules["own_policy"] is theirs and sys.modules["tuning"].SHARE == 0.75
        entry = Entry(summary="", policy="own_policy:Mine")
        assert Checkpoint("theirs", entry).build(load_suite(pointmass)).share == 0.75  # type: ignore[attr-defined]
    finally:
        del sys.modules["own_policy"], sys.modules["tuning"]


def test_evalkits_own_modules_stay_evalkits(beside: Path, pointmass: str) -> None:
    (beside.parent / "evalkit").mkdir()
    (beside.parent / "evalkit" / "__init__.py").write_text("1 / 0")
    assert find_checkpoint("mine", beside).build(load_suite(pointmass))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "bare",
            r"checkpoint 'bare': own_policy:Bare must annotate its second parameter with a pydantic model, .*: "
            r"write def Bare\(suite: Suite, parameters: Parameters\), with class Parameters\(evalkit\.documents\.Sec",
        ),
        ("blank", r"checkpoint 'blank': .* write def __init__\(self, suite: Suite, parameters: Parameters\)"),
        ("lost", "checkpoint 'lost': own_policy:Lost: the annotations of its parameters cannot be read .*Nowhere"),
    ],
)
def test_a_factory_without_annotations_is_told_what_to_write(
    pointmass: str, beside: Path, name: str, message: str
) -> None:
    with pytest.raises(PolicyProblem, match=message):
        find_checkpoint(name, beside).build(load_suite(pointmass))
    with pytest.raises(PolicyProblem, match=message):
        find_checkpoint(name, beside).having({"chunk": 3})


def test_an_unknown_parameter_is_refused_whatever_model_the_policy_has(pointmass: str, beside: Path) -> None:
    assert find_checkpoint("loose:chunk=3", beside).build(load_suite(pointmass)).spec.chunk_size == 3
    with pytest.raises(UsageError, match=r"checkpoint 'loose': chunks: unknown key; did you mean 'chunk'\?"):
        find_checkpoint("loose:chunks=3", beside).build(load_suite(pointmass))


def test_a_policy_can_learn_the_name_of_its_checkpoint(pointmass: str, beside: Path) -> None:
    checkpoint = find_checkpoint("titled:chunk=3", beside)
    assert checkpoint.build(load_suite(pointmass)).title == "titled"  # type: ignore[attr-defined]
    assert checkpoint.identity()["parameters"] == {"chunk": 3}


def test_a_file_named_as_evalkit_beside_a_checkpoint_file_does_not_take_its_place(tmp_path: Path) -> None:
    from evalkit.policies.factories import load_factory

    (tmp_path / "evalkit.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "mine.py").write_text("from evalkit.policies.scripted import Zero\n")
    import evalkit

    assert load_factory("mine:Zero", tmp_path).__module__ == "evalkit.policies.scripted"
    assert sys.modules["evalkit"] is evalkit
