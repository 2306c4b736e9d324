"""Runs as one document for other programs and papers: markdown, CSV, JSON, LaTeX."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from evalkit.analysis.summary import Summary, rows_frame
from evalkit.report import published, tables

if TYPE_CHECKING:
    from evalkit.analysis.published import Comparison

Format = Literal["md", "csv", "json", "latex"]


def render(summaries: Sequence[Summary], form: Format, against: Sequence[Comparison] | None = None) -> str:
    """Every row of every run, as one document, and after them how they compare with what is published.

    JSON and CSV have one record per row and numbers in full; markdown and LaTeX have one table per run, in percent.
    """
    if form == "json":
        document: dict[str, Any] = {"rows": [row.to_dict() for s in summaries for row in s.rows]}
        if against is not None:
            document["published"] = [row for c in against for row in published.documents(c)]
            document["comparisons"] = [row for c in against for row in published.comparisons(c)]
        return json.dumps(document, indent=1)
    if form == "csv":
        return _csv(summaries, against)
    shown = [tables.markdown(s) if form == "md" else tables.latex(s) for s in summaries]
    compared = published.markdown if form == "md" else published.latex
    return "\n\n".join([*shown, *(compared(c) for c in against or [])])


def _csv(summaries: Sequence[Summary], against: Sequence[Comparison] | None) -> str:
    import pandas as pd

    frame = rows_frame(summaries)
    if against is not None:
        keys = ["run", "suite", "split", "task", "metric"]
        held = pd.DataFrame(
            [h for c in against for h in published.comparisons(c)], columns=[*keys, "published", "outside_interval"]
        )
        frame = frame.merge(held, how="left", on=keys)
        rows = pd.DataFrame([r for c in against for r in published.records(c)], columns=[*frame.columns, "source"])
        frame = pd.concat([frame.astype(object), rows.astype(object)]) if len(rows) else frame.assign(source=None)
        frame[["n", "errors"]] = frame[["n", "errors"]].astype("Int64")
    text: str = frame.to_csv(index=False)
    return text.rstrip("\n")
