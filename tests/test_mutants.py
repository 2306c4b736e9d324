"""The mutants that `benchmarks/mutants.py` makes."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from support.paths import REPOSITORY

SOURCE = b'''
"""Not 1 mutant."""

def double(values: tuple[int, str] = (1, 2), *, strict=True):
    """Not 1 mutant."""
    if values and 0 < len(values) is not None:
        values.append(x, y=len(f"{1}"))
    return {"a": values}
'''


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", REPOSITORY / "benchmarks" / "mutants.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


def test_every_named_mutant_still_has_its_place(mutants: ModuleType) -> None:
    for named in mutants.NAMED:
        assert named.mutant().module == named.module


def test_every_target_and_its_tests_are_there(mutants: ModuleType) -> None:
    for target in mutants.TARGETS:
        assert (REPOSITORY / "evalkit" / target.module).is_file()
        for tests in target.tests:
            assert (REPOSITORY / "tests" / tests).exists(), tests


def test_the_edits_of_a_small_function(mutants: ModuleType) -> None:
    editor = mutants._Editor("m.py", SOURCE, None)
    lines = {mutant.diff(SOURCE).split(" + ")[1] for mutant in editor.found}
    head = "def double(values: tuple[int, str] = {}, *, strict={}):"
    condition = "if values {} {} {} len(values) {} None:"
    assert lines == {
        *(head.format(values, "True") for values in ("(0, 2)", "(2, 2)", "(1, 1)", "(1, 3)", "(1)", "(2)")),
        head.format("(1, 2)", "False"),
        condition.format("or", "0", "<", "is not"),
        condition.format("and", "1", "<", "is not"),
        condition.format("and", "-1", "<", "is not"),
        condition.format("and", "0", "<=", "is not"),
        condition.format("and", "0", "<", "is"),
        "pass",
        "values.append(x)",
        "return {}",
    }


def test_a_sample_is_the_same_for_a_seed_and_takes_every_module(mutants: ModuleType) -> None:
    first, again, other = (mutants.sample(26, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert {mutant.module for mutant in first} == {target.module for target in mutants.TARGETS}
