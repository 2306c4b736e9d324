"""The queue of episodes: its order, and that a long plan costs no more per episode than a short one."""

from __future__ import annotations

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.episode import Episode
from evalkit.runner.queue import EpisodeQueue


def episodes(tasks: int, scenes: int) -> list[Episode]:
    return [Episode("s", "a", f"t{task}", scene, 0) for task in range(tasks) for scene in range(scenes)]


class ByTheWord:
    """The rule, word by word, on a list."""

    def __init__(self, queue: list[Episode], unwanted: set[Episode], grouped: bool) -> None:
        self.queue, self.unwanted, self.grouped = list(queue), unwanted, grouped

    def wanted(self) -> list[Episode]:
        self.queue = [episode for episode in self.queue if episode not in self.unwanted]
        return self.queue

    def take(self, built: tuple[str, str] | None, taken: set[tuple[str, str] | None]) -> Episode | None:
        own = [e for e in self.wanted() if self.grouped and e.task_key == built]
        free = [e for e in self.queue if self.grouped and e.task_key not in taken]
        for episode in [*own[:1], *free[:1], *self.queue[:1]]:
            self.queue.remove(episode)
            return episode
        return None


@given(seed=st.integers(0, 2**32), grouped=st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_order_is_that_of_the_rule(seed: int, grouped: bool) -> None:
    chance = random.Random(seed)
    plan = episodes(chance.randint(1, 5), chance.randint(1, 4))
    if chance.random() < 0.5:
        chance.shuffle(plan)
    unwanted: set[Episode] = set()
    queue, rule = EpisodeQueue(plan, lambda e: e not in unwanted, grouped), ByTheWord(plan, unwanted, grouped)
    keys = [None, *{e.task_key for e in plan}]
    playing: list[Episode] = []
    for _ in range(4 * len(plan)):
        if chance.random() < 0.1:
            unwanted.add(chance.choice(plan))
        if playing and chance.random() < 0.2:
            episode = playing.pop(chance.randrange(len(playing)))
            queue.put_back(episode)
            rule.queue.insert(0, episode)
        assert bool(queue) == bool(rule.wanted())
        built, taken = chance.choice(keys), set(chance.sample(keys, chance.randint(0, len(keys))))
        episode = queue.take(built, taken)
        assert episode == rule.take(built, taken)
        if episode is not None:
            playing.append(episode)
        left = {e.task_key for e in rule.wanted()}
        if not unwanted:
            assert queue.has_task_outside(set(keys[:2])) == bool(left - set(keys[:2]))


def seconds_per_episode(plan: list[Episode], grouped: bool) -> float:
    queue, taken = EpisodeQueue(plan, lambda _: True, grouped), {plan[0].task_key, plan[-1].task_key}
    began, built = time.process_time(), None
    while queue:
        episode = queue.take(built, taken)
        assert episode is not None
        built = episode.task_key
    return (time.process_time() - began) / len(plan)


def test_a_long_plan_costs_no_more_per_episode() -> None:
    for tasks, grouped in ((10, True), (1000, True), (10, False)):
        short = min(seconds_per_episode(episodes(10, 50), grouped) for _ in range(3))
        long = seconds_per_episode(episodes(tasks, 20_000 // tasks), grouped)
        assert long < 4 * short, (tasks, grouped, short, long)
