"""The worker's loop, driven over a real socket in a thread, with the real point mass."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.paths import POINTMASS

from evalkit.execution import Execution
from evalkit.execution.delay import Delay
from evalkit.execution.resolve import resolve_execution
from evalkit.observation import ObservationSpec
from evalkit.suite import load_suite
from evalkit.worker.loop import Worker
from evalkit.worker.wire import Channel

EPISODE = {"suite": "pointmass", "split": "far", "task": "up", "scene": 0, "seed": 3, "repeat": 0}


class Host:
    """The other end of a worker's channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.asks: list[dict[str, Any]] = []

    def configure(
        self,
        observation_spec: ObservationSpec | None = None,
        horizon: int = 10,
        video_camera: str | None = None,
        execution: Execution | None = None,
    ) -> dict[str, Any]:
        suite = load_suite(POINTMASS)
        self.channel.send(
            {
                "type": "configure",
                "suite": suite.to_message(),
                "folder": POINTMASS,
                "observation_spec": (observation_spec or ObservationSpec()).to_dict(),
                "execution": (execution or Execution("sync", horizon)).to_dict(),
                "video_camera": video_camera,
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
    host.configure(ObservationSpec(cameras=("above",), state=("position",)))
    host.run([0.0, 0.0])
    seen = host.asks[0]["observation"]
    assert seen["instruction"] == "go up"
    assert seen["images"]["above"].shape == (24, 32, 3) and seen["state"]["position"].shape == (2,)
    assert seen["oracle_plan"] is None


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
    host.configure(video_camera="above")
    done = host.run([0.0, 1.0])
    host.channel.send({"type": "replay", "episode": EPISODE, "actions": done["actions"], "every": 2})
    frames = []
    while (message := host.channel.receive())["type"] == "frame":
        frames.append(message["image"])
    assert message == {"type": "replayed", "digest": done["digest"]}
    assert len(frames) == (done["steps"] + 1) // 2 + 1
    assert not (frames[0] == frames[-1]).all()


def test_the_world_goes_on_between_an_ask_and_its_reply(host: Host) -> None:
    """In virtual time and in real time: the reply is not waited for until it is due."""
    host.configure(execution=resolve_execution("prefix", 60, 10, 8, Delay(3)))
    done = host.run([0.0, 0.0], chunk=60)
    assert done["steps"] == 60 and done["timeline"]["requests"][:3] == [[0, 0], [8, 11], [16, 19]]
    assert done["timeline"]["segments"][:3] == [[0, 11], [8, 8], [16, 8]]
    assert [ask["step"] for ask in host.asks] == [0, 8, 16, 24, 32, 40, 48, 56]
    assert host.asks[0]["prefix"] is None
    prefix = host.asks[1]["prefix"]
    assert (prefix["actions"].shape, prefix["committed"], prefix["kind"]) == ((3, 2), 3, "prefix")
    host.configure(execution=resolve_execution("naive", 60, 10, 40, Delay(20)))
    done = host.run([0.0, 0.0], chunk=60)
    assert done["inferences"] == 2 and done["timeline"]["requests"] == [[0, 0], [40, None]], (
        "the episode overtook a reply"
    )
    assert host.run([0.0, 0.1], chunk=60)["type"] == "done"


def test_a_prefix_is_within_the_action_space_as_what_is_executed_is(host: Host) -> None:
    host.configure(execution=resolve_execution("prefix", 60, 10, 8, Delay(3)))
    host.run([0.0, 5.0], chunk=60)
    assert (host.asks[1]["prefix"]["actions"] == [0.0, 1.0]).all()


def test_motion_says_how_chunks_were_executed(host: Host) -> None:
    host.configure(execution=resolve_execution("naive", 10, 10, 5, Delay(2)))
    execution_stats = host.run([0.0, 0.0])["execution_stats"]
    assert (
        execution_stats["idle_steps"] == 0
        and execution_stats["action_age_max"] == 6
        and execution_stats["switches"] == 11
    )
    assert execution_stats["chunk_jump_position"] == 0 and execution_stats["gripper_reversals"] == 0
    host.configure(execution=resolve_execution("hold", 10, 10, 5, Delay(2)))
    held = host.run([0.5, 0.25])
    assert (
        held["execution_stats"]["idle_steps"]
        == sum(n for asked, n in held["timeline"]["segments"] if asked is None)
        > 10
    )
    rests = [a for a, driver in zip(held["actions"], drivers(held), strict=True) if driver is None]
    assert np.array(rests).tolist() == [[0.0, 0.25]] * len(rests), "a kept number stays, the others rest"


def drivers(done: dict[str, Any]) -> list[int | None]:
    return [asked for asked, steps in done["timeline"]["segments"] for _ in range(steps)]
