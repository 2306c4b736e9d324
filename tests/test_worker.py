"""The worker's loop, driven over a real socket in a thread, with the real point mass."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import POINTMASS

from evalkit.execution import Execution
from evalkit.observation import Needs
from evalkit.suite import load_suite
from evalkit.wire import Channel
from evalkit.worker import Worker

EPISODE = {"suite": "pointmass", "split": "far", "task": "up", "scene": 0, "seed": 3, "repeat": 0}


class Host:
    """The other end of a worker's channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.asks: list[dict[str, Any]] = []

    def configure(self, needs: Needs | None = None, horizon: int = 10, film: str | None = None) -> dict[str, Any]:
        suite = load_suite(POINTMASS)
        self.channel.send(
            {
                "type": "configure",
                "suite": suite.to_message(),
                "folder": POINTMASS,
                "needs": (needs or Needs()).to_dict(),
                "execution": Execution("sync", horizon).to_dict(),
                "film": film,
                "assets": None,
                "sources": {},
                "versions": ["numpy"],
            }
        )
        return self.channel.receive()

    def run(self, action: list[float], chunk: int = 10) -> dict[str, Any]:
        self.channel.send({"type": "run", "episode": EPISODE, "keep_actions": True})
        while (message := self.channel.receive())["type"] == "ask":
            self.asks.append(message)
            reply = {"type": "chunk", "ask": message["ask"], "actions": np.tile(np.float32(action), (chunk, 1))}
            self.channel.send(reply)
        return message


@pytest.fixture
def host() -> Iterator[Host]:
    ours, theirs = socket.socketpair()
    worker = threading.Thread(target=Worker(Channel(theirs)).serve, daemon=True)
    worker.start()
    host = Host(Channel(ours))
    yield host
    host.channel.send({"type": "stop"})
    worker.join(timeout=5)
    assert not worker.is_alive()


def test_one_exchange_per_inference_and_no_image_that_nobody_needs(host: Host) -> None:
    assert host.configure(horizon=7)["type"] == "ready"
    done = host.run([0.0, 0.0])
    assert done["steps"] == 60 and done["inferences"] == 9
    assert host.channel.received == {"ready": 1, "ask": 9, "done": 1}
    assert [ask["step"] for ask in host.asks] == list(range(0, 60, 7))
    assert all(ask["observation"]["images"] == {} and ask["observation"]["state"] == {} for ask in host.asks)


def test_a_policy_is_shown_exactly_what_it_needs(host: Host) -> None:
    host.configure(Needs(cameras=("above",), state=("position",)))
    host.run([0.0, 0.0])
    seen = host.asks[0]["observation"]
    assert seen["instruction"] == "go up"
    assert seen["images"]["above"].shape == (24, 32, 3) and seen["state"]["position"].shape == (2,)
    assert seen["expert"] is None


def test_actions_beyond_the_bounds_are_clipped_as_the_protocol_says_and_counted(host: Host) -> None:
    host.configure()
    beyond, within = host.run([0.0, 5.0]), host.run([0.0, 1.0])
    assert beyond["clipped_steps"] == beyond["steps"] and within["clipped_steps"] == 0
    assert beyond["digest"] == within["digest"] and beyond["success"] == within["success"]


def test_nan_is_refused_and_named(host: Host) -> None:
    host.configure()
    failed = host.run([np.nan, 0.0])
    assert (failed["type"], failed["kind"]) == ("failed", "policy")
    assert "must be finite" in failed["message"]


def test_the_digest_covers_every_action(host: Host) -> None:
    host.configure()
    assert host.run([0.1, 0.0])["digest"] == host.run([0.1, 0.0])["digest"] != host.run([0.1, 1e-6])["digest"]


def test_a_replay_ends_where_the_episode_ended_and_sends_frames(host: Host) -> None:
    host.configure(film="above")
    done = host.run([0.0, 1.0])
    host.channel.send({"type": "replay", "episode": EPISODE, "actions": done["actions"], "every": 2})
    frames = []
    while (message := host.channel.receive())["type"] == "frame":
        frames.append(message["image"])
    assert message == {"type": "replayed", "digest": done["digest"]}
    assert len(frames) == (done["steps"] + 1) // 2 + 1
    assert not (frames[0] == frames[-1]).all()


class Delayed:
    """An asynchronous executor: asks every ``s`` steps, and enters the new chunk ``d`` steps later, at its index d."""

    def __init__(self, s: int, d: int) -> None:
        self.s, self.d = s, d
        self.chunk, self.began = np.zeros((100, 2), np.float32), 0
        self.asked: int | None = None
        self.log: list[tuple[str, int]] = []

    def asks(self, step: int) -> bool:
        return step % self.s == 0

    def prefix(self, step: int) -> np.ndarray | None:
        self.asked = step
        self.log.append(("ask", step))
        return self.chunk[step - self.began :][: self.d]

    def due(self, step: int) -> bool:
        return self.asked is not None and (step == 0 or step - self.asked == self.d)

    def receive(self, chunk: np.ndarray) -> None:
        assert self.asked is not None
        self.log.append(("receive", self.asked))
        self.chunk, self.began, self.asked = chunk, self.asked, None

    def act(self, step: int) -> np.ndarray:
        self.log.append(("act", step))
        return self.chunk[step - self.began]


def test_the_seam_for_asynchronous_execution_asks_at_its_trigger_and_receives_later(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on stepping between the ask and the reply, and an episode's end overtakes a pending reply."""
    monkeypatch.setattr(Execution, "executor", lambda self: executors.pop(0))
    executors = [first := Delayed(s=8, d=3), Delayed(s=50, d=20), Delayed(s=8, d=3)]
    host.configure()
    assert host.run([0.0, 0.0], chunk=60)["steps"] == 60
    around = first.log.index(("ask", 8))
    assert first.log[around : around + 5] == [("ask", 8), ("act", 8), ("act", 9), ("act", 10), ("receive", 8)]
    assert [ask["step"] for ask in host.asks] == [0, 8, 16, 24, 32, 40, 48, 56]
    assert host.asks[1]["prefix"].shape == (3, 2)
    assert host.run([0.0, 0.0], chunk=60)["inferences"] == 2  # the reply to the ask at step 50 was due at 70
    assert host.run([0.0, 0.1], chunk=60)["type"] == "done"
