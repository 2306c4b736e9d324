from __future__ import annotations

import numpy as np
import pytest

from evalkit.checkpoint import Checkpoint, Entry, find_checkpoint, load_checkpoints
from evalkit.episode import Episode
from evalkit.errors import EvalkitError, PolicyProblem, UsageError
from evalkit.observation import Observation
from evalkit.policy import Request
from evalkit.suite import load_suite


def request_at(step: int, scene: int = 0, plan: np.ndarray | None = None) -> Request:
    return Request(Episode("pointmass", "near", "left", scene, 3), step, Observation("go left", expert=plan))


@pytest.mark.parametrize("name", sorted(load_checkpoints()))
def test_every_checkpoint_says_what_it_is(name: str) -> None:
    assert load_checkpoints()[name].summary


def test_parameters_can_be_set_where_a_checkpoint_is_named(pointmass: str) -> None:
    checkpoint = find_checkpoint("oracle-noisy:noise=0.25,chunk=5")
    assert checkpoint.parameters == {"noise": 0.25, "chunk": 5}
    assert checkpoint.build(load_suite(pointmass)).spec.chunk == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("orcale", "unknown checkpoint 'orcale': did you mean oracle"),
        ("oracle:noise", "key=value"),
        ("oracle:colour=red", "checkpoint 'oracle': colour"),
        ("oracle:chunk=0", "chunk: Input should be greater than or equal to 1"),
        ("oracle:chunk=many", "chunk"),
    ],
)
def test_bad_names_and_parameters_are_refused(pointmass: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_checkpoint(text).build(load_suite(pointmass))


@pytest.mark.parametrize(
    "entry",
    [
        Entry(summary="", policy="no.such.module:Policy"),
        Entry(summary="", policy="evalkit.policies.scripted:Nobody"),
        Entry(summary="", policy="builtins:len"),
        Entry(summary="", policy="evalkit.policies.scripted:Hold", suites=["libero"]),
    ],
)
def test_a_checkpoint_that_cannot_be_built_is_explained(pointmass: str, entry: Entry) -> None:
    with pytest.raises(EvalkitError) as error:
        Checkpoint("mine", entry).build(load_suite(pointmass))
    assert isinstance(error.value, PolicyProblem | UsageError)


@pytest.mark.parametrize("name", ["random", "oracle-noisy"])
def test_a_sampled_chunk_depends_on_its_own_request_alone(pointmass: str, name: str) -> None:
    policy = find_checkpoint(name).build(load_suite(pointmass))
    plan = np.zeros((10, 2), np.float32)
    requests = [request_at(step, scene, plan) for scene in range(3) for step in (0, 10)]
    together = policy.act(requests)
    apart = [policy.act([r])[0] for r in reversed(requests)][::-1]
    assert all((a == b).all() and a.dtype == np.float32 for a, b in zip(together, apart, strict=True))
    assert len({chunk.tobytes() for chunk in together}) == len(requests)
    assert all(np.abs(chunk).max() <= 1 for chunk in together)


def test_the_oracle_returns_the_plan_and_hold_holds(pointmass: str) -> None:
    suite = load_suite(pointmass)
    plan = np.linspace(-1, 1, 20, dtype=np.float32).reshape(10, 2)
    assert (find_checkpoint("oracle").build(suite).act([request_at(0, plan=plan)])[0] == plan).all()
    assert not find_checkpoint("hold").build(suite).act([request_at(0)])[0].any()


def test_only_a_policy_that_looks_asks_for_cameras(pointmass: str) -> None:
    suite = load_suite(pointmass)
    assert find_checkpoint("random").build(suite).spec.needs.cameras == ()
    assert find_checkpoint("random:cameras=all").build(suite).spec.needs.cameras == ("above",)
