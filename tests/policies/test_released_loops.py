"""Whole episodes of the authors' own evaluation loops, beside the same episodes of evalkit, request by request.

Both sides answer a request with a chunk that its seed determines, so one bit of difference changes all that follows.
The loops are read from a checkout of the authors' repository (``EVALKIT_XIAOMI_SOURCE``). With
``EVALKIT_XIAOMI_FULL=1`` the episodes have their whole length and are more; docs/fidelity.md has those figures.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.paths import REPOSITORY
from support.requirements import need, xiaomi_source
from support.simpler_sources import stood_in_sources

pytest.importorskip("PIL")
pytest.importorskip("transforms3d")

from evalkit.adapter import Setup
from evalkit.episode import Episode
from evalkit.locations import package_folder, suite_folder
from evalkit.setup.assets import assets_folder
from evalkit.setup.environment import Environment
from evalkit.setup.sources import checkouts
from evalkit.suite import load_suite
from evalkit.worker.loop import load_adapter_module

pytestmark = [pytest.mark.sim, pytest.mark.torch, pytest.mark.slow]

FULL = bool(os.environ.get("EVALKIT_XIAOMI_FULL"))
SUPPORT = REPOSITORY / "tests" / "support"
# Quaternions pass through an eigenvalue solver and a matrix product, whose last bits depend on BLAS's kernels. The
# simulator's environment and evalkit's have different builds of BLAS, which agree on these kernels.
KERNELS = {"OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "Nehalem")}


@dataclass(frozen=True)
class Case:
    """Episodes of one robot: (split, task, number of scenes) each."""

    name: str
    suite: str
    preset: str
    robot: str
    tasks: Sequence[tuple[str, str, int]]
    max_steps: int | None = None
    oracle: bool = False


LIBERO = ("spatial", "object", "goal", "long", "90")
SHORT = [
    Case("libero", "libero", "libero", "libero_all", [(split, "1", 1) for split in LIBERO], 15),
    Case("calvin", "calvin", "calvin", "calvin_abcd_orig", [("abcd_d", "chain", 1)], 30),
    Case("google robot", "simpler", "google_robot", "fractal_delta", [("google_vm", "open_drawer", 1)], 24),
    Case("widowx", "simpler", "widowx", "bridge_delta", [("widowx", "put_carrot_on_plate", 1)], 24),
]
DRAWERS = [
    ("google_vm", task, scenes) for task, scenes in (("open_drawer", 5), ("close_drawer", 5), ("put_in_drawer", 3))
]
TABLE = [("widowx", f"put_{task}", 6) for task in ("carrot_on_plate", "spoon_on_table_cloth")]
TABLE += [("widowx", "stack_green_cube_on_yellow_cube", 6)]
WHOLE = [
    *(
        Case(f"libero {split}", "libero", "libero", "libero_all", [(split, task, 1) for task in ("0", "4", "9")])
        for split in LIBERO
    ),
    Case("libero solved", "libero", "libero", "libero_all", [("object", "0", 2), ("spatial", "1", 2)], oracle=True),
    Case("calvin abc", "calvin", "calvin", "calvin_abc_orig", [("abc_d", "chain", 3)]),
    Case("calvin abcd", "calvin", "calvin", "calvin_abcd_orig", [("abcd_d", "chain", 3)]),
    Case("calvin solved", "calvin", "calvin", "calvin_abc_orig", [("abc_d", "chain", 3)], oracle=True),
    Case("google robot", "simpler", "google_robot", "fractal_delta", DRAWERS),
    Case("google robot solved", "simpler", "google_robot", "fractal_delta", [(*DRAWERS[0][:2], 2)], oracle=True),
    Case("widowx", "simpler", "widowx", "bridge_delta", TABLE),
]


@pytest.mark.timeout(3600 if FULL else 600)
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in (WHOLE if FULL else SHORT)])
def test_requests_verdicts_and_steps_are_those_of_the_authors_loops(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = xiaomi_source({"simpler": "eval_simplerenv"}.get(case.suite, f"eval_{case.suite}") + "/main.py")
    need(case.suite)
    if case.robot == "bridge_delta":
        monkeypatch.setenv("EVALKIT_SIMPLER_SOURCE", str(stood_in_sources(tmp_path / "sources")))
    ours = played(case, tmp_path / "runs")
    theirs = loops(case, ours, checkout)
    assert len(ours["episodes"]) == len(theirs) == sum(scenes for *_, scenes in case.tasks)
    prompt = partial(server_prompt, checkout) if case.suite != "simpler" else str
    compared = 0
    for here, there in zip(ours["episodes"], theirs, strict=True):
        for number, (one, other) in enumerate(zip(here["requests"], there["requests"], strict=False)):
            expected = {**other, "text": prompt(other["text"])}
            differing = [part for part in expected if one[part] != expected[part]]
            assert not differing, f"{here['episode']}: request {number}: {differing}"
            compared += 1
        assert len(here["requests"]) == len(there["requests"])
        assert (here["success"], here["steps"]) == (there["success"], there["steps"]), here["episode"]
    verdicts = [int(episode["success"]) for episode in theirs]
    sys.stdout.write(f"{case.name}: {compared} requests, {len(theirs)} episodes, solved {verdicts}\n")
    assert compared > len(theirs), "no request after a step was compared"
    assert not case.oracle or any(episode["success"] for episode in theirs)


def played(case: Case, out: Path) -> dict[str, Any]:
    """The episodes of evalkit; for LIBERO a task is its number."""
    question = {**vars(case), "out": str(out)}
    variables = {**os.environ, **KERNELS, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(SUPPORT.parent)])}
    return dict(answer([sys.executable, str(SUPPORT / "released_policy.py")], question, variables))


def loops(case: Case, ours: dict[str, Any], checkout: Path) -> list[dict[str, Any]]:
    """The same episodes in the authors' loops, in the suite's environment."""
    suite = load_suite(case.suite)
    environment = Environment.of(suite)
    question = {
        "suite": ours["suite"],
        "checkout": checkout,
        "package": str(package_folder().parent),
        "folder": str(suite_folder(case.suite)),
        "sources": {name: str(found.folder) for name, found in checkouts(suite).items()},
        "assets": str(assets_folder(suite)),
        "site_packages": sysconfig.get_path("purelib"),
        "answers": ours["answers"] if case.oracle else None,
    }
    variables = {**environment.variables(suite, renders=True), **KERNELS}
    command = [str(environment.python), "-W", "ignore", str(SUPPORT / "released_loops.py")]
    episodes = [entry["episode"] for entry in ours["episodes"]]
    if case.suite != "calvin":
        return list(answer(command, {**question, "episodes": episodes}, variables))
    chains = [{**episode, "chain": chain_of(checkout, Episode.from_dict(episode))} for episode in episodes]
    return [entry for chain in chains for entry in answer(command, {**question, "episodes": [chain]}, variables)]


def chain_of(checkout: Path, episode: Episode) -> Any:
    """A sequence of evalkit's list, as the entry of the authors' list that it equals."""
    import json

    module = load_adapter_module(suite_folder("calvin"))
    suite = load_suite("calvin")
    sources = {name: str(found.folder) for name, found in checkouts(suite).items()}
    setup = Setup(suite.to_message(), sources=sources)
    condition, tasks = module.sequences.of(setup, module.upstream.Checkouts.of(sources))[episode.scene]
    released = json.loads((checkout / "eval_calvin" / "config" / "eval_sequences.json").read_text())
    (entry,) = [entry for entry in released if entry[0] == condition and tuple(entry[1]) == tasks][:1]
    return entry


def server_prompt(checkout: Path, language: str) -> str:
    """The prompt that ``deploy/server.py`` makes of an instruction."""
    (text,) = re.findall(r'instruction = f"(.*)"\n', (checkout / "deploy" / "server.py").read_text())
    return str(text.replace('{data["language"]}', language).replace("\\n", "\n"))


def answer(command: list[str], question: dict[str, Any], variables: dict[str, str]) -> Any:
    done = subprocess.run(command, input=pickle.dumps(question), env=variables, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return pickle.loads(done.stdout)
