"""A policy in a process of its own: the same chunks, and an end that takes nothing else with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import POINTMASS
from support.processes import gone

from evalkit.episode import Episode
from evalkit.errors import EvalkitError, PolicyProblem, UsageError
from evalkit.execution import Prefix
from evalkit.observation import Observation
from evalkit.policies.checkpoint import find_checkpoint
from evalkit.policies.process import messages
from evalkit.policies.process.family import families, family_of
from evalkit.policies.process.host import PolicyProcess
from evalkit.policy import Request
from evalkit.setup.environment import Environment
from evalkit.suite import Suite, load_suite

CODE = """
import os, sys, time
from pathlib import Path

import numpy as np

from evalkit.documents import Section
from evalkit.errors import UsageError
from evalkit.observation import ObservationSpec
from evalkit.policy import Spec
from evalkit.suite import Suite


class Parameters(Section):
    trouble: str = "none"
    mark: str = ""


class Policy:
    def __init__(self, suite: Suite, parameters: Parameters) -> None:
        self._trouble, self._mark = parameters.trouble, Path(parameters.mark)
        if self._trouble == "exits":
            sys.exit("no licence")
        if self._trouble == "dies at once":
            os.abort()
        if self._trouble == "refuses":
            raise UsageError("robot_type: there is none")
        if self._trouble == "raises":
            raise RuntimeError("two\\nlines")
        pid = {"pid": os.getpid()} if self._trouble == "changes" else {}
        self.spec = Spec(ObservationSpec(("above",), ("position",)), 3, {"suite": suite.name, **pid}, True, ("prefix",))

    def act(self, requests):
        print("something for standard output")
        first = not self._mark.exists()
        if self._trouble in ("dies", "dies once", "changes") and (self._trouble == "dies" or first):
            self._mark.touch()
            os.kill(os.getpid(), 9)
        if self._trouble == "hangs":
            time.sleep(600)
        if self._trouble == "speaks":
            raise RuntimeError("not today")
        return [self._chunk(request) for request in requests]

    def _chunk(self, request):
        seen = request.observation
        numbers = [request.seed, request.step, seen.images["above"].sum(), seen.state["position"].sum()]
        held = 0 if request.prefix is None else request.prefix.actions.sum() + request.prefix.committed
        return np.array([[*numbers, held, len(seen.instruction)]] * 3)

    def warnings(self):
        return [self._trouble]

    def close(self):
        self._mark.with_suffix(".closed").touch()
"""
OWN = Environment("own", Path(), None, "own")


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite(POINTMASS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


@pytest.fixture
def opened(suite: Suite, folder: Path) -> Iterator[Any]:
    """Return a function that opens the policy in a process; every one is closed at the end."""
    policies: list[PolicyProcess] = []

    def build(trouble: str = "none", timeout_s: float = 60.0) -> PolicyProcess:
        parameters = {"trouble": trouble, "mark": str(folder / "mark")}
        policies.append(PolicyProcess(OWN, messages.build(suite, "mine:Policy", str(folder), parameters), timeout_s))
        return policies[-1]

    yield build
    for policy in policies:
        policy.close()


def requests(count: int = 2) -> list[Request]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 32, 3), np.uint8)
    prefixes = [None, Prefix(np.ones((2, 2), np.float32), 1, "prefix")]
    return [
        Request(
            Episode("pointmass", "near", "left", n, 3),
            n,
            Observation("go left", {"above": image}, {"position": rng.normal(size=2)}),
            prefixes[n % 2],
        )
        for n in range(count)
    ]


def in_this_process(suite: Suite, folder: Path) -> Any:
    from evalkit.policies.factories import load_factory, parameters_of

    factory = load_factory("mine:Policy", folder)
    return factory(suite, parameters_of(factory, "mine:Policy")(mark=str(folder / "mark")))


def test_chunks_and_spec_are_those_of_the_policy_in_this_process(opened: Any, suite: Suite, folder: Path) -> None:
    here, there = in_this_process(suite, folder), opened()
    assert there.spec == here.spec
    for mine, theirs in zip(here.act(requests()), there.act(requests()), strict=True):
        assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
    assert there.warnings() == ["none"] and there.warnings() == []


def test_it_is_closed_and_leaves_no_process(opened: Any, folder: Path) -> None:
    policy = opened()
    pid = policy._process.pid
    policy.close()
    assert gone([pid]) and (folder / "mark.closed").exists()


@pytest.mark.slow
def test_a_process_that_dies_in_a_batch_is_started_again_and_asked_again(opened: Any) -> None:
    policy, plain = opened("dies once"), opened()
    assert all(map(np.array_equal, policy.act(requests()), plain.act(requests())))
    restarted, own = policy.warnings()
    assert restarted == "the policy's process was killed by SIGKILL (out of memory?): started it again"
    assert own == "dies once"
    os.kill(policy._process.pid, signal.SIGKILL)  # between two batches
    assert all(map(np.array_equal, policy.act(requests()), plain.act(requests())))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "timeout_s", "message"),
    [
        ("dies", 60, r"killed by SIGKILL \(out of memory\?\), and again after a new start; .* continue with --resume"),
        ("hangs", 1, r"did not answer in time, and again after a new start; finished episodes are safe"),
        ("speaks", 60, r"^RuntimeError: not today$"),
        ("changes", 60, r"the policy that was built again is another one"),
    ],
)
def test_trouble_in_a_batch_is_one_line(opened: Any, trouble: str, timeout_s: float, message: str) -> None:
    policy = opened(trouble, timeout_s)
    with pytest.raises(PolicyProblem, match=message) as error:
        policy.act(requests())
    assert "\n" not in str(error.value)
    assert trouble == "speaks" or gone([policy._process.pid])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "kind", "message"),
    [
        ("exits", PolicyProblem, "SystemExit: no licence"),
        ("dies at once", PolicyProblem, "killed by SIGABRT while it built the policy"),
        ("refuses", UsageError, "^robot_type: there is none$"),
        ("raises", PolicyProblem, "^RuntimeError: two lines$"),
    ],
)
def test_trouble_in_building_is_one_line(opened: Any, trouble: str, kind: type[EvalkitError], message: str) -> None:
    with pytest.raises(kind, match=message) as error:
        opened(trouble)
    assert "\n" not in str(error.value)


def test_a_family_is_found_by_its_module_and_by_its_name() -> None:
    family = family_of("evalkit.policies.xiaomi_robotics_0:XiaomiRobotics0")
    assert family is not None and family.name == "xiaomi" and families()["xiaomi"] == family
    assert family_of("evalkit.policies.xiaomi_robotics_0.policy:XiaomiRobotics0") == family
    assert family_of("evalkit.policies.scripted:Oracle") is None and family_of("no.such.module:X") is None


@pytest.mark.torch
@pytest.mark.usefixtures("family_process")
def test_a_released_checkpoint_gives_the_same_chunks_in_its_familys_environment(tiny: Path) -> None:
    from support.observations import observations

    libero = load_suite("libero")
    asked = [
        Request(Episode("libero", "object", "t", 0, 7), step, seen)
        for step, seen in enumerate(observations("libero", 4))
    ]
    checkpoint = find_checkpoint(str(tiny))
    there = checkpoint.build(libero)
    here = checkpoint.build_here(libero)
    try:
        assert isinstance(there, PolicyProcess) and not isinstance(here, PolicyProcess)
        assert there.spec.observation_spec == here.spec.observation_spec
        assert [there.spec.metadata[k] == here.spec.metadata[k] for k in ("dtype", "weights_sha256")] == [True, True]
        assert all(map(np.array_equal, there.act(asked), here.act(asked)))
    finally:
        there.close()
        here.close()
