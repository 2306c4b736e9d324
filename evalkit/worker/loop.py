"""The simulator-side loop. Runs in the suite's environment: standard library, numpy, msgpack and the suite's adapter.

Messages from the host: ``configure`` (once), then any of ``probe``, ``run``, ``replay``, each answered before the next;
``chunk`` in reply to an ``ask``; ``stop``. Messages to the host: ``ready``, ``probed``, ``ask``, ``frame``,
``replayed``, ``done``, and ``failed`` with a kind (``simulator``, ``policy`` or ``crash``) and a message.
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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.adapter import ActionError, Adapter, FrameRenderer, OraclePlanner, Setup, SimulatorError, SubtaskChain
from evalkit.episode import Episode
from evalkit.execution import Execution, Executor, Prefix
from evalkit.execution.strategies import build_executor
from evalkit.observation import Observation, ObservationSpec
from evalkit.worker.trace import Trace
from evalkit.worker.wire import Channel, Closed


def load_adapter_module(folder: Path) -> types.ModuleType:
    """Imports ``folder/adapter.py`` as part of a package, so that it can import its neighbours relatively."""
    name = f"evalkit_suite_{folder.name}"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.adapter")


class Worker:
    """Serves one host over one channel until it says stop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._setup = Setup(suite={})
        self._execution = Execution("sync", 1)
        self._module: types.ModuleType | None = None
        self._adapter: Adapter | None = None
        self._asks = 0

    def serve(self) -> None:
        """Answers messages until ``stop`` or until the host has gone."""
        handlers = {"configure": self._configure, "probe": self._probe, "run": self._run, "replay": self._replay}
        while True:
            message = self._channel.receive()
            if message["type"] == "stop":
                break
            if message["type"] == "chunk":  # the reply to an ask that the episode's end overtook
                continue
            try:
                reply = handlers[message["type"]](message)
            except Closed:
                raise
            except Exception as error:
                kind = {ActionError: "policy", SimulatorError: "simulator"}.get(type(error), "crash")
                text = str(error) if kind != "crash" else f"{type(error).__name__}: {error}"
                traceback.print_exc()  # into the worker's log
                reply = {"type": "failed", "kind": kind, "message": text}
            self._channel.send(reply)
        if self._adapter is not None:
            self._adapter.close()

    def _configure(self, message: dict[str, Any]) -> dict[str, Any]:
        observation_spec = ObservationSpec.from_dict(message["observation_spec"])
        self._setup = Setup(
            message["suite"], observation_spec, message["video_camera"], message["assets"], message["sources"]
        )
        self._execution = Execution.from_dict(message["execution"])
        self._module = load_adapter_module(Path(message["folder"]))
        versions = {name: importlib.metadata.version(name) for name in message["versions"]}
        return {"type": "ready", "python": platform.python_version(), "versions": versions}

    def _probe(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._module is not None, "probe before configure"
        found = self._module.probe(self._setup, [(split, task) for split, task in message["tasks"]])
        return {
            "type": "probed",
            "metadata": dict(found.metadata),
            "problems": list(found.problems),
            "incomparable": list(found.incomparable),
        }

    def _run(self, message: dict[str, Any]) -> dict[str, Any]:
        episode = Episode.from_dict(message["episode"])
        adapter = self._simulator()
        began = time.perf_counter()
        hz = float(self._setup.split(episode.split).get("control_hz") or self._setup.suite["control_hz"])
        trace = self._play(adapter, episode, build_executor(self._execution, episode.id, hz))
        outcome = adapter.outcome()
        if not np.isfinite(list(outcome.metrics.values())).all():
            raise SimulatorError(f"a metric is not a finite number: {dict(outcome.metrics)}")
        return {
            "type": "done",
            "success": bool(outcome.success),
            "steps": len(trace.actions),
            "inferences": len(trace.requests),
            "clipped_steps": trace.clipped,
            "metrics": {name: float(value) for name, value in outcome.metrics.items()},
            "subtasks": [[str(name), bool(solved)] for name, solved in outcome.subtasks],
            "execution_stats": trace.execution_stats(),
            "timeline": None if self._execution.name == "sync" else trace.timeline(),
            "digest": trace.digest(adapter.state()),
            "wall_s": time.perf_counter() - began,
            "reset_s": trace.reset_s,
            "observe_s": trace.observe_s,
            "policy_s": trace.policy_s,
            "actions": np.stack(trace.actions) if message["keep_actions"] else None,
        }

    def _play(self, adapter: Adapter, episode: Episode, executor: Executor) -> Trace:
        """The main loop: one episode, control step by control step."""
        trace = Trace(self._setup.suite["action"]["groups"])
        max_steps = int(self._setup.split(episode.split)["max_steps"])
        began = time.perf_counter()
        adapter.reset(episode)
        trace.reset_s = time.perf_counter() - began
        for step in range(max_steps):
            self._receive(executor, step, trace)
            if executor.wants_inference(step):
                looked = time.perf_counter()
                self._ask(step, adapter, executor.start_inference(step))
                trace.observe_s += time.perf_counter() - looked
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
        """Waits for the reply that must be in hand before ``step``, if there is one."""
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
            raise SimulatorError(f"suite {self._setup.suite['name']} has no scripted expert; use another checkpoint")
        committed = prefix.actions[: prefix.committed] if prefix and prefix.kind == "prefix" else None
        return replace(observation, oracle_plan=adapter.plan(observation_spec.oracle_steps, committed))

    def _ask(self, step: int, adapter: Adapter, prefix: Prefix | None) -> None:
        if prefix is not None:
            prefix = replace(prefix, actions=self._within(prefix.actions))
        self._asks += 1
        message = {"type": "ask", "ask": self._asks, "step": step, "prefix": asdict(prefix) if prefix else None}
        self._channel.send({**message, "observation": self._observe(adapter, prefix).to_message()})

    def _chunk(self) -> np.ndarray:
        while True:
            message = self._channel.receive()
            if message["type"] == "chunk" and message["ask"] == self._asks:
                return np.asarray(message["actions"], np.float32)
            if message["type"] == "stop":
                raise Closed("stopped while an episode was running")

    def _admit(self, action: np.ndarray, trace: Trace) -> np.ndarray:
        """Applies the protocol's rule for actions beyond the action space; the adapter refuses what is left."""
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
        """Holding still: the suite's resting action, its kept numbers as they were commanded last."""
        action, own = self._setup.suite["action"], self._setup.split(episode.split).get("hold_last")
        kept = action["hold_last"] if own is None else own
        idle = np.array(action["idle_action"] or np.zeros(action["size"]), np.float32)
        if trace.actions:
            idle[kept] = trace.actions[-1][kept]
        return idle

    def _replay(self, message: dict[str, Any]) -> dict[str, Any]:
        """Plays recorded actions again and sends a frame every ``every`` steps, and the last one."""
        adapter = self._simulator()
        if not isinstance(adapter, FrameRenderer) or self._setup.video_camera is None:
            raise SimulatorError(f"suite {self._setup.suite['name']} cannot film")
        trace = Trace({})
        trace.actions = list(message["actions"])
        adapter.reset(Episode.from_dict(message["episode"]))
        for step, action in enumerate(trace.actions):
            if step % message["every"] == 0:
                self._channel.send({"type": "frame", "image": adapter.render_frame(self._setup.video_camera)})
            adapter.step(action, observe=False)
        self._channel.send({"type": "frame", "image": adapter.render_frame(self._setup.video_camera)})
        return {"type": "replayed", "digest": trace.digest(adapter.state())}

    def _simulator(self) -> Adapter:
        if self._adapter is None:
            assert self._module is not None, "run before configure"
            self._adapter = self._module.build(self._setup)
        return self._adapter


def main(descriptor: int) -> None:
    """The worker process: serves the host on an inherited socket; ends quietly when the host has gone."""
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    connection = socket.socket(fileno=descriptor)
    with contextlib.suppress(Closed, KeyboardInterrupt):
        Worker(Channel(connection)).serve()


def _leave_with(host: int) -> None:
    """Ends this process soon after its host has gone, even in the middle of a simulator's call."""
    while os.getppid() == host:
        time.sleep(1)
    os._exit(0)
