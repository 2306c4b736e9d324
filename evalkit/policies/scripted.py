"""Policies without weights: the oracle, a known-worse oracle, random actions, and holding still."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from evalkit.documents import Section
from evalkit.errors import unknown
from evalkit.observation import ObservationSpec
from evalkit.policy import Request, Spec
from evalkit.suite import Suite


class Look(Section):
    """What a built-in policy looks at and how long its chunks are.

    They decide nothing by images: ``cameras=all`` makes them as costly to simulate as a model that does. Where
    robots have cameras of their own, ``cameras=NAME`` names one.
    """

    chunk: int = Field(10, ge=1, description="length T of the action chunks")
    cameras: str = Field("none", description="render and send no camera, all of the suite's, or the one of this name")

    def observation_spec(self, suite: Suite, oracle_steps: int = 0) -> ObservationSpec:
        """Which cameras, every state vector with them, and the expert's plan where asked."""
        if self.cameras == "none":
            return ObservationSpec(oracle_steps=oracle_steps)
        if self.cameras != "all" and self.cameras not in suite.cameras:
            raise unknown("camera", self.cameras, suite.cameras)
        chosen = tuple(suite.cameras) if self.cameras == "all" else (self.cameras,)
        return ObservationSpec(chosen, tuple(suite.state), oracle_steps)


class OracleParameters(Look):
    """Parameters of the oracles."""

    noise: float = Field(0.0, ge=0, description="standard deviation of Gaussian noise, as a share of the action range")


class Oracle:
    """Does what the suite's scripted expert plans from the state it was shown, with optional seeded action noise."""

    def __init__(self, suite: Suite, parameters: OracleParameters) -> None:
        self._action = suite.action
        self._noise = parameters.noise
        self.spec = Spec(
            observation_spec=parameters.observation_spec(suite, oracle_steps=parameters.chunk),
            chunk_size=parameters.chunk,
            metadata={"oracle": f"{suite.name}'s scripted expert, with privileged state"},
            supported_prefixes=("prefix",),
        )

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """The plan in the observation, plus noise drawn from the request's seed."""
        return [self._plan(request) for request in requests]

    def close(self) -> None:
        """Nothing to release."""

    def _plan(self, request: Request) -> np.ndarray:
        plan = request.observation.oracle_plan
        assert plan is not None, "the worker always sends the plan that the spec needs"
        if not self._noise:
            return plan
        scale = self._noise * (self._action.high - self._action.low) / 2
        noise = np.random.default_rng(request.seed).normal(0.0, scale, plan.shape)
        noisy: np.ndarray = np.clip(plan + noise, self._action.low, self._action.high).astype(np.float32)
        return noisy


class Random:
    """Uniform actions from the action space, drawn from the request's seed."""

    def __init__(self, suite: Suite, parameters: Look) -> None:
        self._action = suite.action
        self.spec = Spec(observation_spec=parameters.observation_spec(suite), chunk_size=parameters.chunk, metadata={})

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """(T, A) per request."""
        shape = (self.spec.chunk_size, self._action.size)
        return [
            np.random.default_rng(r.seed).uniform(self._action.low, self._action.high, shape).astype(np.float32)
            for r in requests
        ]

    def close(self) -> None:
        """Nothing to release."""


class Hold:
    """Zero actions: stay where you are. The floor under every benchmark: what it solves was solved at the start."""

    def __init__(self, suite: Suite, parameters: Look) -> None:
        zero = np.zeros((parameters.chunk, suite.action.size), np.float32)
        self._chunk = np.clip(zero, suite.action.low, suite.action.high)
        self.spec = Spec(observation_spec=parameters.observation_spec(suite), chunk_size=parameters.chunk, metadata={})

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """(T, A) per request."""
        return [self._chunk for _ in requests]

    def close(self) -> None:
        """Nothing to release."""
