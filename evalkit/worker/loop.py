"""The simulator-side loop, in the suite's environment: standard library, numpy, msgpack and the suite's adapter.

The other end of the conversation is :class:`evalkit.runner.scheduler.Scheduler`, and before the first episode
:class:`evalkit.runner.process.WorkerProcess`. :mod:`evalkit.worker.messages` lists the messages.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import socket
import sys
import threading
import time
import traceback
import types
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from evalkit.adapter import ActionError, Adapter, FrameRenderer, OraclePlanner, Setup, SimulatorError, SubtaskChain
from evalkit.episode import Episode
from evalkit.execution import Execution, Executor, Prefix
from evalkit.execution.strategies import build_executor
from evalkit.observation import Observation
from evalkit.worker import messages
from evalkit.worker.messages import (
    Chunk,
    Configure,
    EpisodeDone,
    Failed,
    Frame,
    InferenceRequest,
    Message,
    Probed,
    ProbeTasks,
    Ready,
    Replayed,
    ReplayEpisode,
    RunEpisode,
    Stop,
    WorkerMessage,
)
from evalkit.worker.trace import Trace
from evalkit.worker.wire import Channel, Closed


def load_adapter_module(folder: Path) -> types.ModuleType:
    """Import ``folder/adapter.py`` as part of a package, so that it can import its neighbours relatively."""
    name = f"evalkit_suite_{folder.name}"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.adapter")


class Worker:
    """A server for one host over one channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._setup = Setup(suite={})
        self._execution = Execution("sync", 1)
        self._module: types.ModuleType | None = None
        self._adapter: Adapter | None = None
        self._request = 0

    def serve(self) -> None:
        """Answer messages until Stop. Raises Closed if the host has gone."""
        while True:
            message = messages.receive(self._channel)
            if isinstance(message, Stop):
                break
            if isinstance(message, Chunk):  # a reply that arrives after the end of its episode
                continue
            try:
                reply = self._answer(message)
            except Closed:
                raise
            except Exception as error:
                kind = _kind_of(error)
                text = str(error) if kind != "crash" else f"{type(error).__name__}: {error}"
                traceback.print_exc()  # into the worker's log
                reply = Failed(kind, text)
            messages.send(self._channel, reply)
        if self._adapter is not None:
            self._adapter.close()

    def _answer(self, message: Message) -> WorkerMessage:
        match message:
            case Configure():
                return self._configure(message)
            case ProbeTasks():
                return self._probe(message)
            case RunEpisode():
                return self._run(message)
            case ReplayEpisode():
                return self._replay(message)
            case _:
                raise ValueError(f"the host sent {type(message).__name__}, which only a worker sends")

    def _configure(self, message: Configure) -> Ready:
        self._setup = Setup(
            message.suite, message.observation_spec, message.video_camera, message.assets, message.sources
        )
        self._execution = message.execution
        self._module = load_adapter_module(Path(message.folder))
        versions = {name: importlib.metadata.version(name) for name in message.versions}
        return Ready(platform.python_version(), versions)

    def _probe(self, message: ProbeTasks) -> Probed:
        assert self._module is not None, "ProbeTasks before Configure"
        probe = self._module.probe(self._setup, [(split, task) for split, task in message.tasks])
        return Probed(dict(probe.metadata), list(probe.problems), list(probe.incomparable))

    def _run(self, message: RunEpisode) -> EpisodeDone:
        episode = message.episode
        adapter = self._simulator()
        began = time.perf_counter()
        hz = float(self._setup.split(episode.split).get("control_hz") or self._setup.suite["control_hz"])
        executor = build_executor(self._execution, episode.id, hz)
        trace = self._play(adapter, episode, executor)
        outcome = adapter.outcome()
        if not np.isfinite(list(outcome.metrics.values())).all():
            raise SimulatorError(f"a metric is not a finite number: {dict(outcome.metrics)}")
        return EpisodeDone(
            success=bool(outcome.success),
            steps=len(trace.actions),
            inferences=len(trace.requests),
            clipped_steps=trace.clipped,
            metrics={name: float(value) for name, value in outcome.metrics.items()},
            subtasks=[[str(name), bool(solved)] for name, solved in outcome.subtasks],
            execution_stats={**trace.execution_stats(), **executor.execution_stats()},
            timeline=None if self._execution.name == "sync" else trace.timeline(),
            digest=trace.digest(adapter.state()),
            wall_s=time.perf_counter() - began,
            reset_s=trace.reset_s,
            observe_s=trace.observe_s,
            policy_s=trace.policy_s,
            actions=np.stack(trace.actions) if message.keep_actions else None,
        )

    def _play(self, adapter: Adapter, episode: Episode, executor: Executor) -> Trace:
        """Play one episode, control step by control step: the main loop."""
        trace = Trace(self._setup.suite["action"]["groups"], self._setup.action_space.dtype)
        max_steps = int(self._setup.split(episode.split)["max_steps"])
        began = time.perf_counter()
        adapter.reset(episode)
        trace.reset_s = time.perf_counter() - began
        for step in range(max_steps):
            self._receive(executor, step, trace)
            if executor.wants_inference(step):
                began = time.perf_counter()
                self._request_inference(step, adapter, executor.start_inference(step))
                trace.observe_s += time.perf_counter() - began
                trace.requested(step)
                self._receive(executor, step, trace)
            move = executor.act(step)
            action = self._idle_action(episode, trace) if move.action is None else self._admit(move.action, trace)
            ended = adapter.step(action, observe=step + 1 < max_steps and executor.wants_inference(step + 1))
            trace.executed(action, move)
            if ended:
                break
            if isinstance(adapter, SubtaskChain) and adapter.subtask_done():
                executor.restart(step + 1)
        return trace

    def _receive(self, executor: Executor, step: int, trace: Trace) -> None:
        """Wait for the reply that is due before ``step``, if any."""
        if executor.reply_due(step):
            waited = time.perf_counter()
            executor.receive(self._chunk())
            trace.policy_s += time.perf_counter() - waited
            trace.received(step)

    def _observe(self, adapter: Adapter, prefix: Prefix | None) -> Observation:
        observation_spec = self._setup.observation_spec
        observation = adapter.observe(observation_spec)
        if not observation_spec.oracle_steps:
            return observation
        if not isinstance(adapter, OraclePlanner):
            raise SimulatorError(f"suite {self._setup.suite['name']} has no scripted oracle; use another checkpoint")
        committed = prefix.actions[: prefix.committed] if prefix and prefix.kind == "prefix" else None
        plan = adapter.plan(observation_spec.oracle_steps, committed)
        return replace(observation, oracle_plan=plan.astype(self._setup.action_space.dtype, copy=False))

    def _request_inference(self, step: int, adapter: Adapter, prefix: Prefix | None) -> None:
        # Scheduler._answer_requests in evalkit.runner.scheduler answers with a Chunk, which _chunk below receives.
        if prefix is not None:
            prefix = replace(prefix, actions=self._within(prefix.actions))
        self._request += 1
        request = InferenceRequest(self._request, step, self._observe(adapter, prefix), prefix)
        messages.send(self._channel, request)

    def _chunk(self) -> np.ndarray:
        """Wait for the Chunk that answers the last request."""
        while True:
            message = messages.receive(self._channel)
            if isinstance(message, Chunk) and message.request == self._request:
                return np.asarray(message.actions, self._setup.action_space.dtype)
            if isinstance(message, Stop):
                raise Closed("stopped while an episode was running")

    def _admit(self, action: np.ndarray, trace: Trace) -> np.ndarray:
        """Apply the protocol's rule for out-of-bounds actions. The adapter refuses the remaining ones."""
        admitted = self._within(action)
        trace.clipped += bool((admitted != action).any() and np.isfinite(action).all())
        return admitted

    def _within(self, actions: np.ndarray) -> np.ndarray:
        space = self._setup.action_space
        if self._setup.suite["action"]["out_of_bounds"] == "clip" and np.isfinite(actions).all():
            clipped: np.ndarray = np.clip(actions, space.low, space.high)
            return clipped
        return actions

    def _idle_action(self, episode: Episode, trace: Trace) -> np.ndarray:
        """Return the suite's idle action, with the ``hold_last`` numbers as last commanded."""
        action, of_split = self._setup.suite["action"], self._setup.split(episode.split).get("hold_last")
        held = action["hold_last"] if of_split is None else of_split
        idle = np.array(action["idle_action"] or np.zeros(action["size"]), self._setup.action_space.dtype)
        if trace.actions:
            idle[held] = trace.actions[-1][held]
        return idle

    def _replay(self, message: ReplayEpisode) -> Replayed:
        """Execute recorded actions, and send a frame every ``message.every`` control steps and at the end."""
        adapter, camera = self._simulator(), self._setup.video_camera
        if not isinstance(adapter, FrameRenderer) or camera is None:
            raise SimulatorError(f"suite {self._setup.suite['name']} cannot render videos")
        trace = Trace({}, self._setup.action_space.dtype)
        trace.actions = list(message.actions)
        adapter.reset(message.episode)
        for step, action in enumerate(trace.actions):
            if step % message.every == 0:
                messages.send(self._channel, Frame(adapter.render_frame(camera)))
            adapter.step(action, observe=False)
        messages.send(self._channel, Frame(adapter.render_frame(camera)))
        return Replayed(trace.digest(adapter.state()))

    def _simulator(self) -> Adapter:
        """Return the adapter, built at the first call."""
        if self._adapter is None:
            assert self._module is not None, "RunEpisode before Configure"
            self._adapter = self._module.build(self._setup)
        return self._adapter


def _kind_of(error: Exception) -> Literal["simulator", "policy", "crash"]:
    if type(error) is ActionError:
        return "policy"
    return "simulator" if type(error) is SimulatorError else "crash"


def main(descriptor: int) -> None:
    """Serve the host on an inherited socket. Exit quietly when the host has gone."""
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    connection = socket.socket(fileno=descriptor)
    with contextlib.suppress(Closed, KeyboardInterrupt):
        Worker(Channel(connection)).serve()


def _exit_with(host: int) -> None:
    """End this process soon after its host has gone, also where nobody watches the host (see evalkit.descendants)."""
    while os.getppid() == host:
        time.sleep(1)
    os._exit(0)
