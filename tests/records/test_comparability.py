"""Rendering counts between two runs that both use cameras, and only there."""

from __future__ import annotations

from typing import Any

import pytest
from support.paths import POINTMASS

from evalkit.errors import NotComparable, UsageError
from evalkit.records.comparability import check_comparable
from evalkit.records.manifest import Manifest, Plan, fingerprint
from evalkit.suite import load_suite


def manifest(gl: Any, cameras: list[str] | None) -> Manifest:
    """A run's manifest; ``cameras`` is None if the manifest does not say."""
    suite = load_suite(POINTMASS)
    spec = {} if cameras is None else {"observation_spec": {"cameras": cameras}}
    return Manifest(
        fingerprint=fingerprint(suite, {"numpy": "2"}, {"gl": gl}),
        checkpoint={"id": "made-up", **spec},
        execution={"name": "sync", "horizon": 10},
        plan=Plan.of(suite.plan()),
        code={},
        suite=suite.to_message(),
    )


@pytest.mark.parametrize("cameras", [["top"], None])
def test_two_runs_with_cameras_and_other_renderers_are_refused(cameras: list[str] | None) -> None:
    egl, osmesa = manifest({"renderer": "a GPU"}, cameras), manifest({"renderer": "llvmpipe"}, ["top"])
    for pair in ((egl, osmesa), (osmesa, egl)):
        with pytest.raises(NotComparable, match=r"gl\.renderer is"):
            check_comparable(*pair)
    assert check_comparable(egl, osmesa, allow=["gl"]) == ['gl.renderer: "a GPU" and "llvmpipe"']
    assert check_comparable(egl, manifest({"renderer": "a GPU"}, ["top"])) == []


def test_the_renderer_does_not_count_if_one_run_has_no_cameras() -> None:
    blind, seeing = manifest({"renderer": "a GPU"}, []), manifest({"renderer": "llvmpipe"}, ["top"])
    assert check_comparable(blind, seeing) == check_comparable(seeing, blind) == []
    with pytest.raises(UsageError, match="--allow gl: it does not differ"):
        check_comparable(blind, seeing, allow=["gl"])
    assert check_comparable(blind, manifest({"renderer": "llvmpipe"}, [])) == []
