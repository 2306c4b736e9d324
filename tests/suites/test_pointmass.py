"""The conformance suite passes on a suite that lives outside evalkit's own folders, as a third party's would."""

from __future__ import annotations

from typing import ClassVar

from support.paths import POINTMASS

from evalkit.testing import AdapterConformance


class TestPointMass(AdapterConformance):
    suite = POINTMASS
    tasks: ClassVar = [("near", "left"), ("far", "up")]
