"""The gate: a sequential, paired test of a checkpoint against a baseline, valid whenever it stops."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from evalkit.episode import Episode
from evalkit.errors import EvalkitError, NotComparable, UsageError
from evalkit.execution.delay import Delay
from evalkit.experiments.gate_order import GateOrder, Rounds, Unit, planned_order
from evalkit.records.comparability import check_comparable
from evalkit.records.frame import read_frame
from evalkit.records.manifest import Manifest, read_manifest
from evalkit.records.record import Verdict
from evalkit.runner.options import RunOptions
from evalkit.runner.recorder import Progress
from evalkit.runner.run import play
from evalkit.stats.sequential import ErrorRates, SplitTests, confidence_sequence
from evalkit.suite import Headline, load_suite

ALL = "all"  # the only stratum of a suite that is one benchmark


@dataclass(frozen=True)
class GateOptions:
    """The options of a gate.

    Attributes:
        baseline: the folder of the baseline run.
        error_rates: the accepted probabilities of a wrong verdict, and the margin.
        max_scenes: limit on the number of scenes; all that both runs have if None.
        seed: seed of the order in which scenes are played and tested.
        allow: see :func:`evalkit.records.comparability.check_comparable`.
        max_error_rate: share of episodes that may end in errors; above it there is no verdict.
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
    """The facts about a gate that are known before the first episode.

    Attributes:
        order: the rounds of scenes of each stratum.
        paired: True if the same scenes are compared.
        rate: the baseline's mean score over the tested scenes.
        error_rates: the accepted probabilities of a wrong verdict, and the margin.
    """

    order: Mapping[str, Rounds]
    paired: bool
    rate: float
    error_rates: ErrorRates


@dataclass(frozen=True)
class GateResult:
    """A gate's verdict and its evidence.

    Attributes:
        verdict: PASS, REGRESSION or INCONCLUSIVE.
        reason: the reason, in words.
        suite: the suite's name.
        baseline: the baseline's folder and checkpoint.
        candidate: the candidate's folder and checkpoint.
        paired: True if the same scenes were compared.
        tests: for each stratum the verdict, the numbers of tested and planned scenes, the difference with its
            confidence sequence, and the e-values.
        episodes: number of tested episodes that were played.
        planned: number of episodes that the gate may play.
        errors: number of tested episodes that ended in errors.
        error_rates: the accepted probabilities of a wrong verdict, and the margin.
        seed: seed of the order.
        allowed: differences beyond the checkpoints that were allowed, one line each.
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
        """Return the document that ``evalkit gate --json`` prints."""
        return asdict(self)


Announce = Callable[[GateForecast], None]


class Gate:
    """The episode selector of a gate: it stops the candidate's run when the verdict is clear."""

    def __init__(self, options: GateOptions, announce: Announce) -> None:
        """Read the baseline. Raises UsageError if it does not exist or has no finished episode."""
        self.options = options
        self.baseline = read_manifest(options.baseline)
        self._announce = announce
        self._chain: int | None = self.baseline.suite.get("chain")
        scores = read_scores(options.baseline, self.baseline)
        self._scores = {episode: value for episode, value in scores if value is not None}
        if not self._scores:
            raise UsageError(f"{options.baseline}: no episode of this baseline has a verdict")
        self.allowed: list[str] = []
        self.paired = True
        self.results: GateOrder

    def on_start(self, manifest: Manifest) -> None:
        """Plan the comparison and announce the forecast. Raises NotComparable for a run of another protocol."""
        self.allowed = check_comparable(self.baseline, manifest, self.options.allow)
        episodes = manifest.plan.episodes(str(manifest.fingerprint["suite"]))
        scores = self._baseline_scores(episodes, manifest.pairable and self.baseline.pairable)
        units = [Unit.of(e) for e in episodes if Unit.of(e) in scores]
        if not units:
            raise NotComparable(
                f"not comparable: the baseline {self.options.baseline} has none of the tasks of this run"
            )
        strata = {split: self._stratum(split) for split, _ in manifest.plan.keys}
        order = planned_order(units, strata, self.options.seed, self.options.max_scenes)
        self.results = GateOrder(episodes, order, scores, SplitTests(order, self.options.error_rates), self._chain)
        tested = [unit for stratum in order.values() for one in stratum for unit in one]
        rate = sum(scores[unit] for unit in tested) / len(tested)
        self._announce(GateForecast(order, self.paired, rate, self.options.error_rates))

    def order(self, episodes: Sequence[Episode]) -> list[Episode]:
        """See :class:`evalkit.runner.options.EpisodeSelector`."""
        return self.results.order()

    def on_record(self, record: Verdict) -> None:
        """See :class:`evalkit.runner.options.EpisodeSelector`."""
        self.results.on_record(record)

    def needs(self, episode: Episode) -> bool:
        """See :class:`evalkit.runner.options.EpisodeSelector`."""
        return self.results.needs(episode)

    def result(self, run: Path) -> GateResult:
        """Return the verdict. Raises EvalkitError if there are too many errors for one."""
        results, error_rates = self.results, self.options.error_rates
        if results.errors > self.options.max_error_rate * results.episodes_done:
            share = f"{results.errors} of {results.episodes_done} episodes ended in errors"
            raise EvalkitError(f"{run}: {share}, more than {100 * self.options.max_error_rate:g} %: no verdict")
        candidate = read_manifest(run)
        tests = [self._test_result(stratum) for stratum in results.tests.tests]
        verdict = results.verdict or "INCONCLUSIVE"
        return GateResult(
            verdict=verdict,
            reason=_reason(verdict, tests, error_rates, self._chain or 0),
            suite=str(candidate.fingerprint["suite"]),
            baseline={"run": str(self.options.baseline), "checkpoint": str(self.baseline.checkpoint["id"])},
            candidate={"run": str(run), "checkpoint": str(candidate.checkpoint["id"])},
            paired=self.paired,
            tests=tests,
            episodes=results.episodes_done,
            planned=len(results.order()),
            errors=results.errors,
            error_rates=error_rates,
            seed=self.options.seed,
            allowed=self.allowed,
        )

    def _test_result(self, stratum: str) -> dict[str, Any]:
        test = self.results.tests.tests[stratum]
        evidence = test.evidence
        low, high = confidence_sequence(test.score_differences)
        return {
            "split": None if stratum == ALL else stratum,
            "verdict": test.verdict,
            "scenes": test.pairs,
            "planned": self.results.planned(stratum),
            "difference": evidence.difference,
            "low": round(low, 4),
            "high": round(high, 4),
            "against_not_worse": evidence.against_not_worse,
            "against_worse": evidence.against_worse,
            "alpha": test.error_rates.alpha,
        }

    def _stratum(self, split: str) -> str:
        """Return a split's stratum: itself if the suite's headline is a mean of splits, else the whole suite."""
        rule = Headline.model_validate(self.baseline.suite["headline"])
        return split if rule.mean_of == "splits" else ALL

    def _baseline_scores(self, episodes: Sequence[Episode], pairable: bool) -> dict[Unit, float]:
        """Return a baseline score for each unit: of the same scene, or of the same task if no scene is in both runs."""
        planned: dict[Unit, list[Episode]] = {}
        for episode in episodes:
            planned.setdefault(Unit.of(episode), []).append(episode)
        same_scene = {
            unit: sum(self._scores[e] for e in repeats) / len(repeats)
            for unit, repeats in planned.items()
            if pairable and all(e in self._scores for e in repeats)
        }
        self.paired = bool(same_scene)
        return same_scene or self._unpaired_scores(planned)

    def _unpaired_scores(self, planned: dict[Unit, list[Episode]]) -> dict[Unit, float]:
        """Return scores of the baseline's own units, assigned at random within each task; each is used once."""
        rng = random.Random(self.options.seed)
        repeats: dict[Unit, list[float]] = {}
        for episode, value in self._scores.items():
            repeats.setdefault(Unit.of(episode), []).append(value)
        by_task: dict[tuple[str, str], list[float]] = {}
        for unit in sorted(repeats):
            by_task.setdefault((unit.split, unit.task), []).append(sum(repeats[unit]) / len(repeats[unit]))
        for scores in by_task.values():
            rng.shuffle(scores)
        units = rng.sample(sorted(planned), len(planned))
        return {u: by_task[u.split, u.task].pop() for u in units if by_task.get((u.split, u.task))}


def gate_finished_run(run: Path, options: GateOptions, announce: Announce) -> GateResult:
    """Return the verdict on a finished run; a live gate would have reached the same.

    Raises:
        NotComparable: the run must not be compared with the baseline.
        UsageError: the folder holds no run, or the run lacks episodes that the verdict needs.
        EvalkitError: too many episodes ended in errors.
    """
    gate, manifest = Gate(options, announce), read_manifest(run)
    gate.on_start(manifest)
    for episode, value in read_scores(run, manifest):
        gate.results.on_score(episode, value)
    missing = gate.results.missing()
    if missing:
        raise UsageError(
            f"{run}: {len(missing)} episodes that the verdict needs have not been played ({missing[0].id} is the "
            f"first); finish the run with --resume --out {run}"
        )
    return gate.result(run)


def read_scores(run: Path, manifest: Manifest) -> Iterator[tuple[Episode, float | None]]:
    """Yield the episodes of a run with their scores: 1 or 0, the solved share of a chain, or None for an error.

    Raises:
        UsageError: the journal is damaged, or not that of the manifest.
    """
    frame = read_frame(run, extras=False, manifest=manifest)
    chain = manifest.suite.get("chain")
    values = (frame["solved"] / chain if chain else frame["success"]).tolist()
    episodes = zip(*(frame[name].tolist() for name in Episode.__dataclass_fields__), strict=True)
    for fields, value, error in zip(episodes, values, frame["error"].tolist(), strict=True):
        yield Episode(*fields), float(value) if error is None else None


def gate_live_run(run_options: RunOptions, options: GateOptions, progress: Progress, announce: Announce) -> GateResult:
    """Play a checkpoint on the baseline's scenes until the verdict is clear, and return the verdict.

    Splits, tasks, scenes and execution default to the baseline's.

    Raises:
        EvalkitError: see :mod:`evalkit.errors`; NotComparable comes before the first episode.
    """
    gate = Gate(options, announce)
    suite, of_baseline = load_suite(run_options.suite), str(gate.baseline.fingerprint["suite"])
    if suite.name != of_baseline:
        raise NotComparable(
            f"not comparable: the baseline {options.baseline} is of suite {of_baseline}, not {suite.name}"
        )
    return gate.result(play(_with_baseline_defaults(replace(run_options, suite=suite), gate.baseline), progress, gate))


def _with_baseline_defaults(options: RunOptions, baseline: Manifest) -> RunOptions:
    """Return the options with the baseline's values for those that were not given."""
    plan, execution = baseline.plan, baseline.execution
    all_tasks = {(s, t) for s in {s for s, _ in plan.keys} for t in baseline.suite["splits"][s]["tasks"]}
    tasks = [] if all_tasks == set(plan.keys) else list(dict.fromkeys(task for _, task in plan.keys))
    return replace(
        options,
        splits=options.splits or list(dict.fromkeys(split for split, _ in plan.keys)),
        tasks=options.tasks or ([] if options.splits else tasks),
        episodes=options.episodes or max(task.scenes for task in plan.tasks),
        repeats=options.repeats or max(task.repeats for task in plan.tasks),
        execution=execution["name"],
        horizon=execution["horizon"] if options.horizon is None else options.horizon,
        delay=Delay.from_dict(execution.get("delay") or {"steps": 0}),
        prefix=execution.get("prefix"),
        parameters=execution.get("parameters", {}),
    )


def _reason(verdict: str, tests: Sequence[dict[str, Any]], error_rates: ErrorRates, chain: int) -> str:
    def signed(value: float) -> str:
        return f"{chain * value:+.2f}" if chain else f"{100 * value:+.1f} points"

    def describe(test: dict[str, Any]) -> str:
        if test["difference"] is None:
            return "no scene was tested"
        difference = f"{signed(test['difference'])} on {test['scenes']} of {test['planned']} scenes"
        return f"{test['split']}: {difference}" if test["split"] else difference

    margin = signed(error_rates.margin).lstrip("+")
    if verdict == "REGRESSION":
        worse = "; ".join(describe(t) for t in tests if t["verdict"] == verdict)
        return f"worse than the baseline: {worse} (false alarm at most {error_rates.alpha:g})"
    if verdict == "PASS":
        return f"not worse by {margin}: {'; '.join(map(describe, tests))} (at most {error_rates.beta:g} if it were)"
    undecided = "; ".join(describe(t) for t in tests if t["verdict"] is None)
    return f"neither worse nor shown not to be worse by {margin}: {undecided}; more scenes would tell"
