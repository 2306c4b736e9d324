"""A policy's spec refuses a description that cannot be executed or recorded."""

from __future__ import annotations

from typing import Any

import pytest

from evalkit.observation import ObservationSpec
from evalkit.policy import MAX_CHUNK_SIZE, Spec


@pytest.mark.parametrize("chunk_size", [0, -1, MAX_CHUNK_SIZE + 1, 99_999_999_999])
def test_a_chunk_has_a_size_that_can_be_executed(chunk_size: int) -> None:
    with pytest.raises(ValueError, match=f"chunk_size {chunk_size}: must be 1 to 10000"):
        Spec(ObservationSpec(), chunk_size, {})


def test_metadata_can_be_recorded() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = {"a": deep}
    for metadata in ({"a": deep}, {"a": 2**64}, {"a": "\ud83d"}, {"\0": 1}):
        with pytest.raises(ValueError, match="metadata: has "):
            Spec(ObservationSpec(), 1, metadata)
    assert Spec(ObservationSpec(), MAX_CHUNK_SIZE, {"a": [{"b": 2**63 - 1}]}).chunk_size == MAX_CHUNK_SIZE
