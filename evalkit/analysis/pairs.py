"""Two runs side by side: the episodes with a verdict in both, one row each."""

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
        folder: the run's folder.
        manifest: the run's manifest.
        scored: its episodes with a verdict (:func:`evalkit.records.frame.episodes_frame`), and their ``score``.
        errors: number of episodes that ended in an error.
    """

    folder: Path
    manifest: Manifest
    scored: pd.DataFrame
    errors: int

    @property
    def chain(self) -> int | None:
        """The number of sub-tasks per episode; None if episodes are not chains."""
        found = self.manifest.suite.get("chain")
        return None if found is None else int(found)


def read_side(folder: Path) -> Side:
    """Read a run.

    Raises:
        UsageError: the folder holds no run, or its journal is not that of its manifest.
    """
    manifest = read_manifest(folder)
    frame = read_frame(folder, extras=False, manifest=manifest)
    scored = frame[frame["error"].isna()]
    chain = manifest.suite.get("chain")
    scores = scored["solved"] / chain if chain else scored["success"].astype(float)
    return Side(folder, manifest, scored.assign(score=scores.astype(float)), len(frame) - len(scored))


def pair_episodes(first: Side, second: Side) -> pd.DataFrame:
    """Return one row per episode that both sides have.

    A score is 1 or 0, or the solved share of a chain. Repeats of a scene that ended alike on both sides (equal digests
    and scores) are one observation, and so are repeats without digests; ``distinct`` marks the first of them. Nothing
    is paired if a side does not know its scenes. Columns: split, task, scene, repeat, score_a, score_b, distinct.
    """
    columns = [*KEY, "score", "digest"]
    ours, theirs = (s.scored if s.manifest.pairable else s.scored.iloc[:0] for s in (first, second))
    merged = ours[columns].merge(theirs[columns], on=KEY, suffixes=("_a", "_b"))
    same = ["split", "task", "scene", "digest_a", "digest_b", "score_a", "score_b"]
    found: pd.DataFrame = merged.assign(distinct=~merged.duplicated(same))[[*KEY, "score_a", "score_b", "distinct"]]
    return found
