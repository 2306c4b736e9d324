"""The gate: is a checkpoint worse than a baseline? Sequential, paired, valid whenever it stops."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evalkit.episode import Episode
from evalkit.errors import EvalkitError, NotComparable, UsageError
from evalkit.execution.delay import Delay
from evalkit.experiments.gate_order import GateOrder, Rounds, Unit, planned_order, score
from evalkit.records.comparability import check_comparable
from evalkit.records.journal import Record, read_journal
from evalkit.records.manifest import Manifest, read_manifest
from evalkit.runner.options import RunOptions
from evalkit.runner.recorder import Progress
from evalkit.runner.run import play
from evalkit.stats.sequential import ErrorRates, SplitTests, interval
from evalkit.suite import Headline, load_suite

ALL = "all"  # the stratum of a suite that is one benchmark


@dataclass(frozen=True)
class GateOptions:
    """What a gate is asked.

    Attributes:
        baseline: the folder of the run to measure against.
        levels: what a verdict may cost.
        cap: scenes played at most; all that both have where None.
        seed: of the order in which scenes are played and weighed.
        allow: see :func:`evalkit.records.comparability.check_comparable`.
        max_error_rate: share of episodes that may end in errors; with more there is no verdict.
    """

    baseline: Path
    error_rates: ErrorRates = field(default_factory=ErrorRates)
    max_scenes: int | None = None
    seed: int = 0
    allow: Sequence[str] = ()
    max_error_rate: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.max_error_rate < 1:
            raise ValueError(f"max_error_rate must be at least 0 and below 1, got {self.max_error_rate}")


@dataclass(frozen=True)
class GateForecast:
    """What is known before the first episode: printed so that nobody is surprised.

    Attributes:
        order: the rounds of scenes of each stratum.
        paired: whether the same scenes are compared.
        rate: the baseline's mean score over the scenes that count.
        levels: what a verdict may cost.
    """

    order: Mapping[str, Rounds]
    paired: bool
    rate: float
    error_rates: ErrorRates


@dataclass(frozen=True)
class GateResult:
    """What a gate found.

    Attributes:
        verdict: PASS, REGRESSION or INCONCLUSIVE.
        reason: in words.
        suite: its name.
        baseline: the baseline's folder and checkpoint.
        candidate: the run's folder and checkpoint.
        paired: whether the same scenes were compared.
        tests: by stratum: verdict, scenes weighed and planned, difference with its confidence sequence, e-values.
        episodes: episodes that were played of those that count.
        planned: how many count in all.
        errors: of these, those that ended in errors.
        levels: what a verdict may cost.
        seed: of the order.
        allowed: what differs beyond the checkpoints, and was allowed to.
    """

    verdict: str
    reason: str
    suite: str
    baseline: dict[str, str]
    candidate: dict[str, str]
    paired: bool
    tests: list[dict[str, Any]]
    episodes: int
    planned: int
    errors: int
    error_rates: ErrorRates
    seed: int
    allowed: list[str]

    def to_json(self) -> dict[str, Any]:
        """The document that ``evalkit gate --json`` prints."""
        return asdict(self)


Announce = Callable[[GateForecast], None]


class Gate:
    """A gate that has a baseline and waits for a checkpoint's run: what ``play`` asks while it plays one."""

    def __init__(self, options: GateOptions, announce: Announce) -> None:
        """Reads the baseline. Raises UsageError where there is none, or none with a verdict."""
        self.options = options
        self.baseline = read_manifest(options.baseline)
        self._announce = announce
        self._chain: int | None = self.baseline.suite.get("chain")
        records = read_journal(options.baseline).values()
        self._scores = {r.episode: s for r in records if (s := score(r, self._chain)) is not None}
        if not self._scores:
            raise UsageError(f"{options.baseline}: no episode of this baseline has a verdict")
        self.allowed: list[str] = []
        self.paired = True
        self.gate_order: GateOrder

    def on_start(self, manifest: Manifest) -> None:
        """See :class:`evalkit.runner.run.Judge`. Raises NotComparable; else plans, and announces what can be expected."""
        self.allowed = check_comparable(self.baseline, manifest, self.options.allow)
        episodes = manifest.plan.episodes(str(manifest.fingerprint["suite"]))
        scores = self._by_unit(episodes, manifest.pairable and self.baseline.pairable)
        units = [Unit.of(e) for e in episodes if Unit.of(e) in scores]
        if not units:
            raise NotComparable(
                f"not comparable: the baseline {self.options.baseline} has none of the tasks of this run"
            )
        strata = {split: self._stratum(split) for split, _ in manifest.plan.keys}
        order = planned_order(units, strata, self.options.seed, self.options.max_scenes)
        self.gate_order = GateOrder(episodes, order, scores, SplitTests(order, self.options.error_rates), self._chain)
        counted = [unit for of in order.values() for one in of for unit in one]
        rate = sum(scores[unit] for unit in counted) / len(counted)
        self._announce(GateForecast(order, self.paired, rate, self.options.error_rates))

    def order(self, episodes: Sequence[Episode]) -> list[Episode]:
        """See :class:`evalkit.runner.run.Judge`."""
        return self.gate_order.order()

    def on_record(self, record: Record) -> None:
        """See :class:`evalkit.runner.run.Judge`."""
        self.gate_order.on_record(record)

    def needs(self, episode: Episode) -> bool:
        """See :class:`evalkit.runner.run.Judge`."""
        return self.gate_order.needs(episode)

    def result(self, run: Path) -> GateResult:
        """What was found. Raises EvalkitError where there are too many errors for a verdict."""
        gate_order, error_rates = self.gate_order, self.options.error_rates
        if gate_order.errors > self.options.max_error_rate * gate_order.heard:
            share = f"{gate_order.errors} of {gate_order.heard} episodes ended in errors"
            raise EvalkitError(f"{run}: {share}, more than {100 * self.options.max_error_rate:g} %: no verdict")
        candidate = read_manifest(run)
        tests = [self._found(name) for name in gate_order.tests.tests]
        verdict = gate_order.verdict or "INCONCLUSIVE"
        return GateResult(
            verdict=verdict,
            reason=_reason(verdict, tests, error_rates, self._chain or 0),
            suite=str(candidate.fingerprint["suite"]),
            baseline={"run": str(self.options.baseline), "checkpoint": str(self.baseline.checkpoint["id"])},
            candidate={"run": str(run), "checkpoint": str(candidate.checkpoint["id"])},
            paired=self.paired,
            tests=tests,
            episodes=gate_order.heard,
            planned=len(gate_order.order()),
            errors=gate_order.errors,
            error_rates=error_rates,
            seed=self.options.seed,
            allowed=self.allowed,
        )

    def _found(self, name: str) -> dict[str, Any]:
        test = self.gate_order.tests.tests[name]
        evidence = test.evidence
        low, high = interval(test.differences)
        return {
            "split": None if name == ALL else name,
            "verdict": test.verdict,
            "scenes": test.pairs,
            "planned": self.gate_order.planned(name),
            "difference": evidence.difference,
            "low": round(low, 4),
            "high": round(high, 4),
            "against_not_worse": evidence.against_not_worse,
            "against_worse": evidence.against_worse,
            "alpha": test.error_rates.alpha,
        }

    def _stratum(self, split: str) -> str:
        """A split that is a benchmark of its own, or all, as the suite's headline has it."""
        rule = Headline.model_validate(self.baseline.suite["headline"])
        return split if rule.mean_of == "splits" else ALL

    def _by_unit(self, episodes: Sequence[Episode], pairable: bool) -> dict[Unit, float]:
        """The baseline's score of each unit: of the same scene, or where no scene is in both, one of the same task."""
        planned: dict[Unit, list[Episode]] = {}
        for episode in episodes:
            planned.setdefault(Unit.of(episode), []).append(episode)
        found = {
            unit: sum(self._scores[e] for e in of) / len(of)
            for unit, of in planned.items()
            if pairable and all(e in self._scores for e in of)
        }
        self.paired = bool(found)
        return found or self._at_random(planned)

    def _at_random(self, planned: dict[Unit, list[Episode]]) -> dict[Unit, float]:
        """Scores of the baseline's own units, dealt out within each task; each is used once."""
        chance = random.Random(self.options.seed)
        theirs: dict[Unit, list[float]] = {}
        for episode, value in self._scores.items():
            theirs.setdefault(Unit.of(episode), []).append(value)
        stock: dict[tuple[str, str], list[float]] = {}
        for unit in sorted(theirs):
            stock.setdefault((unit.split, unit.task), []).append(sum(theirs[unit]) / len(theirs[unit]))
        for of in stock.values():
            chance.shuffle(of)
        units = chance.sample(sorted(planned), len(planned))
        return {u: stock[u.split, u.task].pop() for u in units if stock.get((u.split, u.task))}


def gate_finished_run(run: Path, options: GateOptions, announce: Announce) -> GateResult:
    """Judges a finished run, as the live gate would have judged it.

    Raises:
        NotComparable: it must not be held against the baseline.
        UsageError: it is no run, or lacks episodes that the verdict needs.
        EvalkitError: too many of its episodes ended in errors.
    """
    gate, manifest = Gate(options, announce), read_manifest(run)
    gate.on_start(manifest)
    for record in read_journal(run).values():
        gate.on_record(record)
    missing = gate.gate_order.missing()
    if missing:
        raise UsageError(
            f"{run}: {len(missing)} episodes that the verdict needs have not been played ({missing[0].id} is the "
            f"first); finish the run with --resume --out {run}"
        )
    return gate.result(run)


def gate_live_run(asked: RunOptions, options: GateOptions, progress: Progress, announce: Announce) -> GateResult:
    """Plays a checkpoint on the baseline's scenes until the verdict is clear.

    Splits, tasks, scenes and execution are the baseline's where ``asked`` does not say.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`; among them NotComparable, before the first episode.
    """
    gate = Gate(options, announce)
    ours, theirs = load_suite(asked.suite).name, str(gate.baseline.fingerprint["suite"])
    if ours != theirs:
        raise NotComparable(f"not comparable: the baseline {options.baseline} is of suite {theirs}, not {ours}")
    return gate.result(play(_like(gate.baseline, asked), progress, gate))


def _like(baseline: Manifest, asked: RunOptions) -> RunOptions:
    """What was asked for, and where it says nothing, what the baseline did."""
    plan, execution = baseline.plan, baseline.execution
    everything = {(s, t) for s in {s for s, _ in plan.keys} for t in baseline.suite["splits"][s]["tasks"]}
    tasks = [] if everything == set(plan.keys) else list(dict.fromkeys(task for _, task in plan.keys))
    return replace(
        asked,
        splits=asked.splits or list(dict.fromkeys(split for split, _ in plan.keys)),
        tasks=asked.tasks or ([] if asked.splits else tasks),
        episodes=asked.episodes or max(task.scenes for task in plan.tasks),
        repeats=asked.repeats or max(task.repeats for task in plan.tasks),
        execution=execution["name"],
        horizon=execution["horizon"] if asked.horizon is None else asked.horizon,
        delay=Delay.from_dict(execution.get("delay") or {"steps": 0}),
        prefix=execution.get("prefix"),
        parameters=execution.get("parameters", {}),
    )


def _reason(verdict: str, tests: Sequence[dict[str, Any]], error_rates: ErrorRates, chain: int) -> str:
    def signed(value: float) -> str:
        return f"{chain * value:+.2f}" if chain else f"{100 * value:+.1f} points"

    def one(test: dict[str, Any]) -> str:
        if test["difference"] is None:
            return "no scene was weighed"
        shown = f"{signed(test['difference'])} on {test['scenes']} of {test['planned']} scenes"
        return f"{test['split']}: {shown}" if test["split"] else shown

    margin = signed(error_rates.margin).lstrip("+")
    if verdict == "REGRESSION":
        worse = "; ".join(one(t) for t in tests if t["verdict"] == verdict)
        return f"worse than the baseline: {worse} (false alarm at most {error_rates.alpha:g})"
    if verdict == "PASS":
        return f"not worse by {margin}: {'; '.join(map(one, tests))} (at most {error_rates.beta:g} if it were)"
    open_ones = "; ".join(one(t) for t in tests if t["verdict"] is None)
    return f"neither worse nor shown not to be worse by {margin}: {open_ones}; more scenes would tell"
