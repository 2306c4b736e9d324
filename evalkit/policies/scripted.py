"""Policies without weights: the oracle, the oracle with action noise, random actions and zero actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from evalkit.documents import Section
from evalkit.errors import unknown
from evalkit.observation import ObservationSpec
from evalkit.policy import MAX_CHUNK_SIZE, Request, Spec
from evalkit.suite import Suite


class ScriptedParameters(Section):
    """Parameters of the built-in policies.

    These policies ignore images. ``cameras=all`` gives them the rendering cost of a model; ``cameras=NAME`` selects one
    camera, for suites with different cameras for different robots.
    """

    chunk: int = Field(10, ge=1, le=MAX_CHUNK_SIZE, description="length T of the action chunks")
    cameras: str = Field("none", description="cameras to render and send: none, all of the suite's, or the one named")

    def observation_spec(self, suite: Suite, oracle_steps: int = 0) -> ObservationSpec:
        """Return the chosen cameras, with every state vector if there are any, and the length of the oracle's plan.

        Raises:
            UsageError: the suite has no such camera.
        """
        if self.cameras == "none":
            return ObservationSpec(oracle_steps=oracle_steps)
        if self.cameras != "all" and self.cameras not in suite.cameras:
            raise unknown("camera", self.cameras, suite.cameras)
        cameras = tuple(suite.cameras) if self.cameras == "all" else (self.cameras,)
        return ObservationSpec(cameras, tuple(suite.state), oracle_steps)


class OracleParameters(ScriptedParameters):
    """Parameters of the oracles."""

    noise: float = Field(0.0, ge=0, description="standard deviation of Gaussian noise, as a share of the action range")


class Oracle:
    """The actions that the suite's scripted oracle plans, with optional seeded noise."""

    def __init__(self, suite: Suite, parameters: OracleParameters) -> None:
        self._action = suite.action
        self._noise = parameters.noise
        self.spec = Spec(
            observation_spec=parameters.observation_spec(suite, oracle_steps=parameters.chunk),
            chunk_size=parameters.chunk,
            metadata={"oracle": f"{suite.name}'s scripted oracle, with privileged state"},
            supported_prefixes=("prefix",),
        )

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Return the plan in each observation, plus noise drawn from the request's seed."""
        return [self._plan(request) for request in requests]

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _plan(self, request: Request) -> np.ndarray:
        plan = request.observation.oracle_plan
        assert plan is not None, "the worker always sends the plan that the spec names"
        if not self._noise:
            return plan
        scale = self._noise * (self._action.high - self._action.low) / 2
        noise = np.random.default_rng(request.seed).normal(0.0, scale, plan.shape)
        noisy: np.ndarray = np.clip(plan + noise, self._action.low, self._action.high).astype(self._action.dtype)
        return noisy


class Random:
    """Uniform actions from the action space, drawn from the request's seed."""

    def __init__(self, suite: Suite, parameters: ScriptedParameters) -> None:
        self._action = suite.action
        self.spec = Spec(observation_spec=parameters.observation_spec(suite), chunk_size=parameters.chunk, metadata={})

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Return (T, A) per request, in the suite's dtype of actions."""
        shape = (self.spec.chunk_size, self._action.size)
        return [
            np.random.default_rng(r.seed).uniform(self._action.low, self._action.high, shape).astype(self._action.dtype)
            for r in requests
        ]

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class Zero:
    """Zero actions: the lower bound of every benchmark, which solves only episodes that begin solved."""

    def __init__(self, suite: Suite, parameters: ScriptedParameters) -> None:
        zero = np.zeros((parameters.chunk, suite.action.size), suite.action.dtype)
        self._chunk = np.clip(zero, suite.action.low, suite.action.high)
        self.spec = Spec(observation_spec=parameters.observation_spec(suite), chunk_size=parameters.chunk, metadata={})

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Return (T, A) per request, in the suite's dtype of actions."""
        return [self._chunk for _ in requests]

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
