"""The worker's loop, driven over a real socket in a thread, with the real point mass."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from support.paths import POINTMASS

from evalkit.episode import Episode
from evalkit.execution import Execution
from evalkit.execution.delay import Delay
from evalkit.execution.resolve import resolve_execution
from evalkit.observation import ObservationSpec
from evalkit.suite import load_suite
from evalkit.worker import messages
from evalkit.worker.loop import Worker
from evalkit.worker.messages import (
    Chunk,
    Configure,
    EpisodeDone,
    Failed,
    Frame,
    InferenceRequest,
    Message,
    Ready,
    Replayed,
    ReplayEpisode,
    RunEpisode,
    Stop,
)
from evalkit.worker.wire import Channel

EPISODE = Episode("pointmass", "far", "up", scene=0, seed=3)


class Host:
    """The other end of a worker's channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.requests: list[InferenceRequest] = []

    def send(self, message: Message) -> None:
        messages.send(self.channel, message)

    def receive(self) -> Message:
        return messages.receive(self.channel)

    def configure(
        self,
        observation_spec: ObservationSpec | None = None,
        horizon: int = 10,
        video_camera: str | None = None,
        execution: Execution | None = None,
    ) -> Message:
        suite, spec = load_suite(POINTMASS).to_message(), observation_spec or ObservationSpec()
        execution = execution or Execution("sync", horizon)
        self.send(Configure(suite, POINTMASS, spec, execution, video_camera, None, {}, ["numpy"]))
        return self.receive()

    def play(self, action: list[float], chunk: int = 10) -> Message:
        self.send(RunEpisode(EPISODE, keep_actions=True))
        while isinstance(message := self.receive(), InferenceRequest):
            self.requests.append(message)
            self.send(Chunk(message.request, np.tile(np.float32(action), (chunk, 1))))
        return message

    def run(self, action: list[float], chunk: int = 10) -> EpisodeDone:
        done = self.play(action, chunk)
        assert isinstance(done, EpisodeDone), done
        return done


@pytest.fixture
def host() -> Iterator[Host]:
    ours, theirs = socket.socketpair()
    worker = threading.Thread(target=Worker(Channel(theirs)).serve, daemon=True)
    worker.start()
    host = Host(Channel(ours))
    yield host
    host.send(Stop())
    worker.join(timeout=5)
    assert not worker.is_alive()


def test_one_exchange_per_inference_and_no_image_that_nobody_needs(host: Host) -> None:
    assert isinstance(host.configure(horizon=7), Ready)
    done = host.run([0.0, 0.0])
    assert done.steps == 60 and done.inferences == 9
    assert host.channel.received == {"Ready": 1, "InferenceRequest": 9, "EpisodeDone": 1}
    assert [request.step for request in host.requests] == list(range(0, 60, 7))
    assert all(r.observation.images == {} and r.observation.state == {} for r in host.requests)


def test_a_policy_is_shown_exactly_what_it_needs(host: Host) -> None:
    host.configure(ObservationSpec(cameras=("above",), state=("position",)))
    host.run([0.0, 0.0])
    seen = host.requests[0].observation
    assert seen.instruction == "go up"
    assert seen.images["above"].shape == (24, 32, 3) and seen.state["position"].shape == (2,)
    assert seen.oracle_plan is None


def test_actions_beyond_the_bounds_are_clipped_as_the_protocol_says_and_counted(host: Host) -> None:
    host.configure()
    beyond, within = host.run([0.0, 5.0]), host.run([0.0, 1.0])
    assert beyond.clipped_steps == beyond.steps and within.clipped_steps == 0
    assert beyond.digest == within.digest and beyond.success == within.success


def test_nan_is_refused_and_named(host: Host) -> None:
    host.configure()
    failed = host.play([np.nan, 0.0])
    assert isinstance(failed, Failed) and failed.kind == "policy" and "must be finite" in failed.message


def test_the_digest_covers_every_action(host: Host) -> None:
    host.configure()
    assert host.run([0.1, 0.0]).digest == host.run([0.1, 0.0]).digest != host.run([0.1, 1e-6]).digest


def test_a_replay_ends_where_the_episode_ended_and_sends_frames(host: Host) -> None:
    host.configure(video_camera="above")
    done = host.run([0.0, 1.0])
    assert done.actions is not None
    host.send(ReplayEpisode(EPISODE, list(done.actions), every=2))
    frames = []
    while isinstance(message := host.receive(), Frame):
        frames.append(message.image)
    assert message == Replayed(done.digest)
    assert len(frames) == (done.steps + 1) // 2 + 1
    assert not (frames[0] == frames[-1]).all()


def test_the_world_goes_on_between_an_ask_and_its_reply(host: Host) -> None:
    """In virtual time and in real time: the reply is not waited for until it is due."""
    host.configure(execution=resolve_execution("prefix", 60, 10, 8, Delay(3)))
    done = host.run([0.0, 0.0], chunk=60)
    assert done.steps == 60 and timeline(done)["requests"][:3] == [[0, 0], [8, 11], [16, 19]]
    assert timeline(done)["segments"][:3] == [[0, 11], [8, 8], [16, 8]]
    assert [request.step for request in host.requests] == [0, 8, 16, 24, 32, 40, 48, 56]
    assert host.requests[0].prefix is None
    prefix = host.requests[1].prefix
    assert prefix is not None and (prefix.actions.shape, prefix.committed, prefix.kind) == ((3, 2), 3, "prefix")
    host.configure(execution=resolve_execution("naive", 60, 10, 40, Delay(20)))
    done = host.run([0.0, 0.0], chunk=60)
    assert done.inferences == 2 and timeline(done)["requests"] == [[0, 0], [40, None]], "the episode overtook a reply"
    host.run([0.0, 0.1], chunk=60)


def test_a_prefix_is_within_the_action_space_as_what_is_executed_is(host: Host) -> None:
    host.configure(execution=resolve_execution("prefix", 60, 10, 8, Delay(3)))
    host.run([0.0, 5.0], chunk=60)
    prefix = host.requests[1].prefix
    assert prefix is not None and (prefix.actions == [0.0, 1.0]).all()


def test_motion_says_how_chunks_were_executed(host: Host) -> None:
    host.configure(execution=resolve_execution("naive", 10, 10, 5, Delay(2)))
    execution_stats = host.run([0.0, 0.0]).execution_stats
    assert (
        execution_stats["idle_steps"] == 0
        and execution_stats["action_age_max"] == 6
        and execution_stats["switches"] == 11
    )
    assert execution_stats["chunk_jump_position"] == 0 and execution_stats["gripper_reversals"] == 0
    host.configure(execution=resolve_execution("hold", 10, 10, 5, Delay(2)))
    held = host.run([0.5, 0.25])
    assert held.execution_stats["idle_steps"] == sum(n for asked, n in timeline(held)["segments"] if asked is None) > 10
    rests = [a for a, driver in zip(actions(held), drivers(held), strict=True) if driver is None]
    assert np.array(rests).tolist() == [[0.0, 0.25]] * len(rests), "a kept number stays, the others rest"


def drivers(done: EpisodeDone) -> list[int | None]:
    return [asked for asked, steps in timeline(done)["segments"] for _ in range(steps)]


def timeline(done: EpisodeDone) -> dict[str, list]:
    assert done.timeline is not None
    return done.timeline


def actions(done: EpisodeDone) -> np.ndarray:
    assert done.actions is not None
    return done.actions


def test_a_late_reply_to_an_earlier_request_is_dropped(host: Host) -> None:
    host.configure()
    plain = host.run([0.1, 0.0])
    host.send(RunEpisode(EPISODE, keep_actions=True))
    while isinstance(message := host.receive(), InferenceRequest):
        host.send(Chunk(message.request - 1, np.ones((10, 2), np.float32)))
        host.send(Chunk(message.request, np.tile(np.float32([0.1, 0.0]), (10, 1))))
    assert isinstance(message, EpisodeDone) and message.digest == plain.digest
