"""An adapter that breaks the contract fails its conformance tests with a sentence that says what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from support.paths import POINTMASS

from evalkit.testing import AdapterConformance

STEP = "        self._physics = self._next(self._physics, action)\n"
RESET = "        self._steps = 0\n\n    def step"
OBSERVE = "        return Observation(\n"


def broken(folder: Path, old: str, new: str, suite: tuple[str, str] = ("", "")) -> AdapterConformance:
    """The conformance tests of the point mass, with ``new`` in place of ``old`` in its adapter, and in suite.yaml."""
    shutil.copytree(POINTMASS, folder)
    for path, change in ((folder / "adapter.py", (old, new)), (folder / "suite.yaml", suite)):
        text = path.read_text()
        assert change[0] in text
        path.write_text(text.replace(*change, 1))

    class TestBroken(AdapterConformance):
        suite = str(folder)
        tasks: ClassVar = [("near", "left"), ("far", "up")]
        steps = 25

    return TestBroken()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "test", "message"),
    [
        (
            RESET,
            "        self._count = getattr(self, '_count', 0) + 1\n        self._physics[0] += self._count\n" + RESET,
            "test_reset_is_deterministic_and_reuse_equals_fresh",
            "near/left: an episode depends on the episodes before it: the state differs right after reset; reset must",
        ),
        (
            OBSERVE,
            "        self._physics[0] += 1e-9 * len(observation_spec.cameras)\n" + OBSERVE,
            "test_rendering_changes_no_physics",
            "near/left: rendering at every single step changes the physics: the state differs from step 1; observe",
        ),
        (
            OBSERVE,
            "        self._seen = getattr(self, '_seen', 0) + 1\n" + OBSERVE.replace("return", "seen =") + "MORE",
            "test_rendering_now_and_then_shows_what_rendering_always_shows",
            "an observation must not depend on earlier ones",
        ),
        (
            "np.zeros((24, 32, 3), np.uint8)",
            "np.zeros((24, 24, 3), np.float32)",
            "test_observations_match_the_suite",
            "images are .*float32.*; suite.yaml and the observation spec ask for .*uint8",
        ),
        (
            'self._physics[:2].copy()} if "position" in observation_spec.state else {}',
            "self._physics[:2].copy()}",
            "test_nothing_is_looked_at_that_nobody_needs",
            "an observation contains position, which the observation spec does not name",
        ),
        (
            "        self._setup.action_space.check(action)\n",
            "",
            "test_bad_actions_are_refused_and_execute_nothing",
            "an action with a NaN must raise ActionError before anything is executed",
        ),
        (
            "default_rng([episode.seed, episode.scene])",
            "default_rng(episode.seed)",
            "test_scenes_differ",
            "near/left: scenes 0 and 1 begin in the same state; reset must use episode.scene",
        ),
        (
            "        physics, plan = self._physics, []\n",
            "        self._physics = self._physics * 1.0000001\n        physics, plan = self._physics, []\n",
            "test_planning_changes_nothing_and_plans_what_closed_loop_does",
            "near/left: ",
        ),
    ],
)
def test_a_broken_contract_is_named(tmp_path: Path, old: str, new: str, test: str, message: str) -> None:
    if new.endswith("MORE"):  # an image that shows how many observations came before it
        loop = "        for image in seen.images.values():\n            image[0, 0] = self._seen\n"
        more = f"        )\n{loop}        return seen\n"
        whole = (Path(POINTMASS) / "adapter.py").read_text()
        begin = whole.index(OBSERVE)
        old = whole[begin : whole.index("    def outcome")]
        new = new.removesuffix("MORE") + old.removeprefix(OBSERVE).replace("        )\n", more, 1)
    with pytest.raises(AssertionError, match=message):
        getattr(broken(tmp_path / "broken", old, new), test)()


def test_a_worker_that_ends_early_is_quoted(tmp_path: Path) -> None:
    crash = 'raise RuntimeError("no such scene file: table.xml")\n'
    with pytest.raises(pytest.fail.Exception) as failure:
        broken(tmp_path / "raises", STEP, f"        {crash}").test_scenes_differ()
    assert (
        "the worker process of pointmass ended with exit code 1; its last line: RuntimeError: no such scene file"
        in str(failure.value)
    )
    with pytest.raises(pytest.fail.Exception, match="was ended by SIGABRT"):
        broken(tmp_path / "aborts", STEP, "        os.abort()\n").test_scenes_differ()


def test_an_oracle_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        pytest.fail.Exception, match=r"suite\.yaml names splits under oracle, and the adapter has no method"
    ):
        trial = broken(tmp_path / "blind", "    def plan(", "    def planned(")
        trial.test_planning_changes_nothing_and_plans_what_closed_loop_does()
