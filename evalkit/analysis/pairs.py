"""Two runs side by side: the episodes that both have a verdict for, one row each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.records.frame import read_frame
from evalkit.records.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    import pandas as pd

KEY = ["split", "task", "scene", "repeat"]


@dataclass(frozen=True)
class Side:
    """A run as one side of a comparison.

    Attributes:
        folder: where it is.
        manifest: what it is.
        judged: its episodes with a verdict, as :func:`evalkit.records.frame.episodes_frame` has them, and their ``score``.
        errors: episodes that ended in an error.
    """

    folder: Path
    manifest: Manifest
    judged: pd.DataFrame
    errors: int

    @property
    def chain(self) -> int | None:
        """The sub-tasks of an episode, where episodes are chains."""
        found = self.manifest.suite.get("chain")
        return None if found is None else int(found)


def side(folder: Path) -> Side:
    """Reads a run. Raises UsageError where the folder holds none."""
    manifest = read_manifest(folder)
    frame = read_frame(folder, extras=False)
    judged = frame[frame["error"].isna()]
    chain = manifest.suite.get("chain")
    scores = judged["solved"] / chain if chain else judged["success"].astype(float)
    return Side(folder, manifest, judged.assign(score=scores.astype(float)), len(frame) - len(judged))


def paired(first: Side, second: Side) -> pd.DataFrame:
    """One row per episode that both sides have: ``score_a``, ``score_b``, and ``fresh``.

    Scores are 1 and 0, or the share of a chain that was solved. Where repeats of a scene ended alike on both sides (or
    nobody recorded how they ended), they are one observation: ``fresh`` marks the first of them. Nothing is paired
    where a side does not know its scenes. Columns: split, task, scene, repeat, score_a, score_b, fresh.
    """
    columns = [*KEY, "score", "digest"]
    ours, theirs = (s.judged if s.manifest.pairable else s.judged.iloc[:0] for s in (first, second))
    merged = ours[columns].merge(theirs[columns], on=KEY, suffixes=("_a", "_b"))
    same = ["split", "task", "scene", "digest_a", "digest_b", "score_a", "score_b"]
    found: pd.DataFrame = merged.assign(fresh=~merged.duplicated(same))[[*KEY, "score_a", "score_b", "fresh"]]
    return found
