from __future__ import annotations

from typing import ClassVar

import pytest
from conftest import need

from evalkit.testing import AdapterConformance

pytestmark = pytest.mark.sim


@pytest.fixture(autouse=True, scope="module")
def _environment() -> None:
    need("metaworld")


class TestMetaWorld(AdapterConformance):
    suite = "metaworld"
    tasks: ClassVar = [("easy", "door-open-v3"), ("medium", "bin-picking-v3"), ("very_hard", "stick-pull-v3")]
    steps = 60
