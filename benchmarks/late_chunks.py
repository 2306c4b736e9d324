"""Share of late chunks under drawn delays, by the rule that commits actions: the executor alone, without a simulator.

::

    python benchmarks/late_chunks.py
"""

from __future__ import annotations

import argparse
import math
from statistics import NormalDist

import numpy as np

from evalkit.execution import Execution
from evalkit.execution.delay import Delay
from evalkit.execution.strategies import build_executor

SUITES = {"Meta-World": (80.0, 12, 500), "LIBERO object": (20.0, 5, 280)}  # control rate (Hz), s, steps of an episode
RULES = ("nominal", "running maximum", "quantile=0.9", "quantile=0.95", "quantile=0.99", "quantile=1")


def heavy_tail(median_ms: float, sigma: float, size: int = 1001) -> Delay:
    """Return a trace whose latencies are evenly spaced quantiles of a log-normal distribution."""
    z = [NormalDist().inv_cdf((index + 0.5) / size) for index in range(size)]
    return Delay(None, tuple(round(median_ms * math.exp(sigma * value), 3) for value in z))


def late_share(rule: str, delay: Delay, hz: float, horizon: int, steps: int, episodes: int) -> tuple[int, int, float]:
    """Return (largest number of committed actions, inferences, share of late chunks), with chunks long enough."""
    if rule == "running maximum":
        committed, quantile = delay.quantile(1, hz), None
    else:
        quantile = 0.5 if rule == "nominal" else float(rule.partition("=")[2])
        committed = delay.quantile(quantile, hz)
    s = max(horizon, committed)
    execution = Execution("rtc", s, delay, None, {} if quantile is None else {"quantile": quantile})
    late = inferences = 0
    for episode in range(episodes):
        executor, pending = build_executor(execution, f"episode {episode}", hz), False
        for step in range(steps):
            if executor.wants_inference(step) and not pending:
                executor.start_inference(step)
                pending = True
            if executor.reply_due(step):
                executor.receive(np.zeros((s + delay.quantile(1, hz), 1), np.float32))
                pending, inferences = False, inferences + 1
                if executor.wants_inference(step):
                    executor.start_inference(step)
                    pending = True
            executor.act(step)
        inferences -= 1  # the first has no delay
        late += int(executor.execution_stats()["late_chunks"])
    return committed, inferences, late / inferences


def main() -> None:
    """Print a line per suite, delay model and rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=500)
    episodes = parser.parse_args().episodes
    models = {"normal:80:15ms": Delay.parse("normal:80:15ms"), "heavy tail": heavy_tail(60, 0.5)}
    for suite, (hz, horizon, steps) in SUITES.items():
        for model, delay in models.items():
            drawn = np.array([delay.draw(str(i), hz) for i in range(10_000)])
            print(f"{suite}, {hz:g} Hz, {model}: {drawn.min()} to {delay.quantile(1, hz)} steps")
            for rule in RULES:
                committed, inferences, share = late_share(rule, delay, hz, horizon, steps, episodes)
                print(f"  {rule:<16} c = {committed:>2}   {100 * share:5.1f} % of {inferences} chunks are late")


if __name__ == "__main__":
    main()
