"""evalkit: an evaluation harness for Vision-Language-Action robot policies.

Everything below is ``evalkit.<name>``. Each name is imported at its first use: ``import evalkit`` is fast, and a worker
needs none of the host's libraries.

    run
        evaluate                        run a policy object or a function through a suite, e.g. during training
        play, RunOptions                run a checkpoint through a suite: play(RunOptions("metaworld"), Silent())
        Silent                          the progress display that shows nothing
    results
        summarize, Summary, Row         a run's rates and lengths with their intervals
        table, read_episodes            runs as pandas frames: their rows, and their episodes
        Episode, Record                 one attempt at one scene, and its result
    interfaces
        Policy, Request, Spec           a policy: observations to action chunks (evalkit.policy)
        ObservationSpec, Observation    the inputs of a policy (evalkit.observation)
        Adapter, Setup, Outcome         a simulator (evalkit.adapter)
        Suite, load_suite               a benchmark under its protocol (evalkit.suite)
        EvalkitError                    the base of all errors with a one-line message (evalkit.errors)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalkit.adapter import Adapter, Outcome, Setup
    from evalkit.analysis.rows import Row
    from evalkit.analysis.summary import Summary, read_episodes, summarize, table
    from evalkit.episode import Episode
    from evalkit.errors import EvalkitError
    from evalkit.experiments.evaluate import evaluate
    from evalkit.observation import Observation, ObservationSpec
    from evalkit.policy import Policy, Request, Spec
    from evalkit.records.journal import Record
    from evalkit.runner.progress import Silent
    from evalkit.runner.run import RunOptions, play
    from evalkit.suite import Suite, load_suite

__all__ = [
    "Adapter",
    "Episode",
    "EvalkitError",
    "Observation",
    "ObservationSpec",
    "Outcome",
    "Policy",
    "Record",
    "Request",
    "Row",
    "RunOptions",
    "Setup",
    "Silent",
    "Spec",
    "Suite",
    "Summary",
    "evaluate",
    "load_suite",
    "play",
    "read_episodes",
    "summarize",
    "table",
]

_LAZY_EXPORTS = {
    "adapter": ("Adapter", "Outcome", "Setup"),
    "analysis.rows": ("Row",),
    "analysis.summary": ("Summary", "read_episodes", "summarize", "table"),
    "episode": ("Episode",),
    "errors": ("EvalkitError",),
    "experiments.evaluate": ("evaluate",),
    "observation": ("Observation", "ObservationSpec"),
    "policy": ("Policy", "Request", "Spec"),
    "records.journal": ("Record",),
    "runner.progress": ("Silent",),
    "runner.run": ("RunOptions", "play"),
    "suite": ("Suite", "load_suite"),
}


def __getattr__(name: str) -> Any:
    for module, names in _LAZY_EXPORTS.items():
        if name in names:
            return getattr(importlib.import_module(f"evalkit.{module}"), name)
    raise AttributeError(f"module 'evalkit' has no attribute {name!r}")
