"""evalkit: an evaluation harness for Vision-Language-Action robot policies.

From Python, everything below is ``evalkit.<name>``; each is imported when it is first used, so that importing the
package costs nothing and a worker needs none of the host's libraries.

    evaluate                  run a policy that you hold through a suite, during training say
    play, RunOptions          play a checkpoint through a suite: play(RunOptions("metaworld"), Silent())
    Silent                    a progress display that shows nothing
    summarize, Summary, Row   a finished run in numbers
    table, read_episodes      finished runs as pandas frames: their rows with intervals, and their episodes
    load_suite, Suite         a benchmark under its protocol
    Episode, Record           what was played, and what came of it
    Policy, Request, Spec     what a policy implements (evalkit.policy)
    Adapter, Setup, Outcome   what a simulator implements (evalkit.adapter)
    ObservationSpec, Observation   the inputs of a policy
    EvalkitError              base of every error that is explained in one line (evalkit.errors)
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
