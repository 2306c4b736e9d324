"""CALVIN in its real simulator, against upstream's own code, which is found where `evalkit setup` was told it is."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from support.observations import seen_with_exact_requests
from support.processes import kill_and_resume
from support.requirements import need
from support.runs import shortened

from evalkit.analysis.summary import summarize
from evalkit.errors import EnvironmentProblem, UsageError
from evalkit.locations import package_folder
from evalkit.observation import ObservationSpec
from evalkit.records.journal import read_journal
from evalkit.records.manifest import read_manifest
from evalkit.runner.progress import Silent
from evalkit.runner.run import RunOptions, play
from evalkit.setup.environment import Environment
from evalkit.setup.sources import checkouts
from evalkit.suite import Suite, load_suite
from evalkit.testing import AdapterConformance, canonical
from evalkit.worker.loop import load_adapter_module

pytestmark = pytest.mark.sim
CHAIN = ("abcd_d", "chain")


@pytest.fixture(autouse=True, scope="module")
def _environment() -> None:
    need("calvin")


class TestCalvin(AdapterConformance):
    suite = "calvin"
    tasks: ClassVar = [CHAIN]


def played(out: Path, suite: str | Suite = "calvin", **options: Any) -> list[dict[str, Any]]:
    play(RunOptions(suite, out=out, **{"workers": 2, **options}), Silent())
    return canonical(read_journal(out).values())


def hurried(out: Path, **options: Any) -> list[dict[str, Any]]:
    """As ``played``, with episodes of 40 steps."""
    return played(out, suite=shortened("calvin", 40), **options)


@pytest.fixture(scope="module")
def modules() -> tuple[Any, Any]:
    """The suite's modules sequences and upstream, which need no simulator, and upstream's checkouts."""
    suite = load_suite("calvin")
    adapter = load_adapter_module(Environment.of(suite).source)
    folders = {name: str(checkout.folder) for name, checkout in checkouts(suite).items()}
    return adapter, adapter.upstream.Checkouts.of(folders)


@pytest.fixture(scope="module")
def chains(modules: Any) -> list[Any]:
    """The official sequences, generated anew."""
    adapter, upstream = modules
    return adapter.sequences.generate(*adapter.upstream.sequence_rules(upstream), 1000)


def test_the_sequences_are_the_official_ones(modules: Any, chains: list[Any]) -> None:
    digest = "840cb992c69ce9b6d59f6020966b6300c15233f8e0b9667b6486c1962424d308"
    assert len(chains) == 1000 and {len(tasks) for _, tasks in chains} == {5}
    stated = load_suite("calvin").adapter["sequences_sha256"]
    assert modules[0].sequences.digest_of(chains) == stated == digest


def test_sequences_are_kept_and_a_damaged_or_foreign_list_is_not_used(
    modules: Any, chains: list[Any], tmp_path: Path
) -> None:
    adapter, upstream = modules
    asked: list[int] = []

    def rules() -> Any:
        asked.append(1)
        return adapter.upstream.sequence_rules(upstream)

    digest = adapter.sequences.digest_of(chains)
    assert adapter.sequences.official(rules, 1000, digest, tmp_path) == chains and len(asked) == 1
    assert adapter.sequences.official(rules, 1000, digest, tmp_path) == chains and len(asked) == 1
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace("open_drawer", "close_drawer", 1))
    assert adapter.sequences.official(rules, 1000, digest, tmp_path) == chains and len(asked) == 2
    with pytest.raises(Exception, match="the official ones 0000"):
        adapter.sequences.official(rules, 1000, "0" * 64, None)


def test_the_hash_of_initial_conditions_is_the_one_upstream_was_run_with(modules: Any, chains: list[Any]) -> None:
    """FNV-1 with initial value 0 over UTF-16: the usual variants place blocks elsewhere."""
    adapter, upstream = modules
    condition = {k: chains[0][0][k] for k in adapter.sequences.CONDITIONS}
    assert adapter.upstream.fnv1_32("") == 0 and adapter.upstream.fnv1_32("a") == (ord("a") * 0x01000193) % 2**32
    robot, scene = adapter.upstream.initial_state(upstream, condition)
    assert robot.shape == (15,) and scene.shape == (24,)
    rolled = np.random.get_state()[1]
    adapter.upstream.initial_state(upstream, condition)
    assert (np.random.get_state()[1] == rolled).all()  # the global random state is left alone


def in_the_environment(kind: str, cameras: tuple[str, ...] = (), **question: Any) -> dict[str, Any]:
    """What calvin_adapter.py finds."""
    suite = load_suite("calvin")
    environment = Environment.of(suite)
    whole = {
        "kind": kind,
        "observation_spec": (cameras, tuple(suite.state) if cameras else ()),
        "suite": suite.to_message(),
        "sources": {name: str(checkout.folder) for name, checkout in checkouts(suite).items()},
        "folder": str(environment.source),
        "bootstrap": str(package_folder() / "worker" / "_bootstrap.py"),
    }
    return _answered("calvin_adapter.py", {**whole, **question})


def _answered(script: str, question: dict[str, Any]) -> dict[str, Any]:
    suite = load_suite("calvin")
    environment = Environment.of(suite)
    result = subprocess.run(
        [str(environment.python), "-I", str(Path(__file__).parents[1] / "support" / script)],
        input=pickle.dumps(question),
        stdout=subprocess.PIPE,
        env=environment.variables(suite, renders=True),
        check=True,
    )
    answer: dict[str, Any] = pickle.loads(result.stdout)
    return answer


def upstreams(modules: Any, sequence: Any, actions: np.ndarray, cameras: bool) -> dict[str, Any]:
    """What upstream's own loop makes of a sequence and these actions."""
    _, upstream = modules
    question = {"calvin": str(upstream.calvin), "calvin_env": str(upstream.calvin_env), "cameras": cameras}
    return _answered("calvin_upstream.py", {**question, "sequence": sequence, "actions": actions})


def test_images_and_states_are_upstreams_bit_for_bit(modules: Any, chains: list[Any]) -> None:
    """Looked at after every step, upstream's environment rendering in each; random actions."""
    suite = load_suite("calvin")
    spec = ObservationSpec(tuple(suite.cameras), tuple(suite.state))
    for scene in (0, 5):
        ours = TestCalvin()._play([(CHAIN, scene, 7)], spec, observe_every=1)[0]["observations"]
        generator = np.random.default_rng(7)
        actions = np.stack([generator.uniform(-1, 1, 7).astype(np.float32) for _ in range(TestCalvin.steps)])
        actions[:, 6] = np.where(actions[:, 6] > 0, 1, -1)
        assert ours == upstreams(modules, chains[scene], actions, cameras=True)["shown"]


def test_chains_end_as_in_upstreams_own_loop(modules: Any, chains: list[Any]) -> None:
    """The oracle's actions, given to upstream's evaluate_sequence: the same verdicts after the same steps.

    Of the three one has noise, which takes actions beyond the bounds.
    """
    for scene, noise in ((2, 0.0), (0, 0.0), (1, 0.6)):
        ours = in_the_environment("follow", scene=scene, noise=noise)
        theirs = upstreams(modules, chains[scene], ours["actions"], cameras=False)
        solved = [verdict for _, verdict in ours["subtasks"]]
        assert theirs["solved"] == sum(solved) and theirs["steps"] == len(ours["actions"])
        assert theirs["end"] == ours["end"] and theirs["told"] == ours["told"]
        assert [name for name, _ in ours["subtasks"]] == list(chains[scene][1][: len(solved)])


def test_the_oracle_completes_chains_and_its_plans_are_what_it_does(tmp_path: Path) -> None:
    """In chunks of ten, thrown away where a sub-task ends, and action by action: the same actions."""
    records = played(tmp_path / "10", checkpoint="oracle", episodes=3)
    single = played(tmp_path / "1", checkpoint="oracle:chunk=1", episodes=3)
    assert [r["digest"] for r in records] == [r["digest"] for r in single]
    assert [r["subtasks"] for r in records] == [r["subtasks"] for r in single]
    assert summarize(tmp_path / "10").headline.value >= 4
    seeing = played(tmp_path / "seeing", checkpoint="oracle:cameras=all", episodes=1)
    assert seeing == records[:1], "planning in a copy of a process that renders, and that switches lamps"
    for record in records:
        assert record["steps"] / 10 < record["inferences"] <= record["steps"] / 10 + len(record["subtasks"])


def test_workers_order_and_looking_change_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = hurried(tmp_path / "1", checkpoint="random", workers=1, episodes=4)
    assert one == hurried(tmp_path / "s", checkpoint="random", shuffle=3, workers=2, episodes=4)
    assert one == hurried(tmp_path / "l", checkpoint="random:cameras=all", episodes=4)
    assert len({r["digest"] for r in one}) == 4 and [r["steps"] for r in one] == [40] * 4
    monkeypatch.setenv("EVALKIT_CALVIN_RENDERER", "tiny")
    assert one == hurried(tmp_path / "t", checkpoint="random:cameras=all", episodes=4)
    manifest = read_manifest(tmp_path / "t")
    assert manifest.fingerprint["gl"] == {"renderer": "tiny"}
    assert any("TinyRenderer" in reason for reason in manifest.incomparable)


def test_a_killed_run_resumes_to_the_same_journal(tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint": "oracle:chunk=1", "splits": ["abc_d"], "episodes": 6}
    whole = played(tmp_path / "whole", workers=1, **options)
    arguments = ["calvin", "--checkpoint", "oracle:chunk=1", "--split", "abc_d", "--episodes", "6", "--workers", "2"]
    kill_and_resume(arguments, tmp_path / "killed", len(whole), seed=4)
    assert canonical(read_journal(tmp_path / "killed").values()) == whole


def test_a_checkpoint_of_the_released_shape_plays(tiny: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint": str(tiny), "settings": {"robot_type": "calvin_abcd_orig"}, "episodes": 2}
    one = hurried(tmp_path / "1", workers=1, **options)
    assert one == hurried(tmp_path / "2", workers=2, **options)
    assert [r["inferences"] for r in one] == [4, 4] and one[0]["digest"] != one[1]["digest"]


def test_requests_from_the_real_simulator_equal_an_independent_computation(tmp_path: Path) -> None:
    where = {"suite": "calvin", "splits": ["abc_d"], "out": tmp_path}
    seen = seen_with_exact_requests("calvin", "calvin_abc_orig", reach=1, chunk=10, **where)
    assert len(seen) == 36, "chunks of ten in a sub-task that is not solved"


def test_memory_does_not_grow_from_episode_to_episode() -> None:
    cameras = tuple(load_suite("calvin").cameras)
    sizes = in_the_environment("growth", cameras, episodes=12)["sizes"]
    assert sizes[-1] - sizes[3] < 4 * 8, f"MiB after each episode: {sizes}"


def test_looking_every_tenth_step_costs_a_sixth_of_looking_every_step() -> None:
    cameras = tuple(load_suite("calvin").cameras)
    always, seldom = (in_the_environment("cost", cameras, steps=60, every=n)["seconds"] for n in (1, 10))
    assert always / seldom >= 6


def test_what_does_not_exist_is_said(modules: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 to 1000 scenes"):
        played(tmp_path, checkpoint="zero", episodes=1001)
    outside = "CALVIN has sequences 0 to 999, not 1000"
    assert in_the_environment("outside", scenes=[1000])["answers"] == [outside]
    with pytest.raises(UsageError, match="fly_to_the_moon"):
        played(tmp_path, checkpoint="zero", tasks=["fly_to_the_moon"])
    moves = importlib.import_module(f"{modules[0].__package__}.moves")
    with pytest.raises(Exception, match="does not know the sub-task 'fly_to_the_moon'"):
        moves.moves("fly_to_the_moon", None)


def _copied(modules: Any, target: Path) -> Path:
    """A folder with links to upstream's files, of which some may be replaced."""
    _, upstream = modules
    for name, parts in {"calvin": ["calvin_models"], "calvin_env": ["calvin_env", "conf", "data"]}.items():
        for part in parts:
            shutil.copytree(getattr(upstream, name) / part, target / name / part, copy_function=os.symlink)
    return target


def _hold(out: Path, **options: Any) -> list[dict[str, Any]]:
    return played(out, checkpoint="zero", episodes=1, workers=1, **options)


def test_missing_parts_are_named_before_the_first_episode(
    modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALKIT_CALVIN_SOURCE", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"checkout of calvin is not in .*evalkit setup calvin --source"):
        _hold(tmp_path / "run")
    copied = _copied(modules, tmp_path / "copied")
    monkeypatch.setenv("EVALKIT_CALVIN_SOURCE", str(copied))
    assert len(_hold(tmp_path / "copied-run")) == 1
    assert read_manifest(tmp_path / "copied-run").incomparable, "not a git checkout: the commit is unknown"
    mesh = copied / "calvin_env" / "data" / "calvin_table_D" / "meshes" / "drawer_link.obj"
    mesh.unlink()
    with pytest.raises(EnvironmentProblem, match=r"drawer_link.obj: missing: evalkit setup calvin --source DIR"):
        _hold(tmp_path / "run")
    mesh.symlink_to(modules[1].calvin_env / "data" / "calvin_table_D" / "meshes" / "drawer_link.obj")
    tasks = copied / "calvin" / modules[0].upstream.TASKS
    content = yaml.safe_load(tasks.read_text())
    del content["tasks"]["open_drawer"]
    tasks.unlink()
    tasks.write_text(yaml.safe_dump(content))
    with pytest.raises(EnvironmentProblem, match="sub-task open_drawer: no check in"):
        _hold(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_commit_is_refused(modules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = _copied(modules, tmp_path / "copied")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(copied / "calvin_env"), *command], check=True)
    monkeypatch.setenv("EVALKIT_CALVIN_SOURCE", str(copied))
    with pytest.raises(EnvironmentProblem, match=r"calvin_env at commit \w{12}, and .* for 797142c588c2"):
        _hold(tmp_path / "run")


def test_the_renderer_is_chosen_once_and_a_broken_one_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeing: dict[str, Any] = {"checkpoint": "zero:cameras=all", "episodes": 1, "workers": 1}
    monkeypatch.setenv("EVALKIT_CALVIN_RENDERER", "vulkan")
    with pytest.raises(EnvironmentProblem, match="EVALKIT_CALVIN_RENDERER=vulkan: it must be egl or tiny"):
        hurried(tmp_path / "run", **seeing)
    assert len(_hold(tmp_path / "blind")) == 1, "who sees nothing needs no renderer"
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/dev/null")  # an EGL without a device
    monkeypatch.setenv("EVALKIT_CALVIN_RENDERER", "egl")
    with pytest.raises(EnvironmentProblem, match=r"EGL does not work .*EVALKIT_CALVIN_RENDERER=tiny"):
        hurried(tmp_path / "run", **seeing)
    monkeypatch.delenv("EVALKIT_CALVIN_RENDERER")
    hurried(tmp_path / "without", **seeing)
    assert read_manifest(tmp_path / "without").fingerprint["gl"] == {"renderer": "tiny"}
