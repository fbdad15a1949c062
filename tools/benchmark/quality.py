"""Time to quality: processor time until samples are as good as 1.5 times the floor. Part d."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from retro_diffusion import data, evaluation
from retro_diffusion.data import Images
from tools.benchmark.contenders import Contender, parameters
from tools.benchmark.measuring import Summary, rotated, summarise
from tools.benchmark.report import CURVES, Row, Table
from tools.benchmark.speed import Settings

TARGET = 1.5  # times the floor
SAMPLING_STEPS = 20  # of DDIM, for all
FIRST_LOOK = 5.0  # seconds of training before the first measurement


class Recipe(NamedTuple):
    """A contender and the batch size it is trained with."""

    contender: Contender
    batch_size: int


Recipes = Callable[[str, int], Mapping[str, Recipe]]
"""Builds all recipes for a data set, "digits" or "mnist", and a seed."""


class Judge:
    """Frechet distance to unseen images in a classifier's features, in units of its floor.

    Parameters
    ----------
    images
        The whole data set.
    parts
        Sizes of its disjoint parts: for training, for reference, for the classifier.
    """

    def __init__(self, images: Images, parts: tuple[int, int, int]) -> None:
        self.train, reference, for_classifier = data.split(images, parts)
        self.classifier = evaluation.train_classifier(for_classifier)
        self.real = self.classifier.features(reference.x)
        generator = torch.Generator().manual_seed(0)
        draws = [torch.randperm(len(self.train.x), generator=generator) for _ in range(8)]
        distances = [self._distance(self.train.x[draw[: len(self.real)]]) for draw in draws]
        self.floor = sum(distances) / len(distances)

    @property
    def n(self) -> int:
        """Number of samples to judge."""
        return len(self.real)

    def score(self, samples: Tensor) -> float:
        """Return the distance of samples (N, C, H, W) over that of real images; infinite for NaN."""
        if not bool(samples.isfinite().all()):
            return math.inf
        return self._distance(samples) / self.floor

    def _distance(self, x: Tensor) -> float:
        return evaluation.frechet_distance(self.classifier.features(x), self.real)


@dataclass
class Runner:
    """A training under way: what it has cost, and how good its samples were at which cost."""

    recipe: Recipe
    step: Callable[[], object]
    sampling_steps: int = SAMPLING_STEPS
    seconds: float = 0.0
    steps: int = 0
    next_look: float = FIRST_LOOK
    curve: list[tuple[float, float]] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The best score so far; infinite before the first."""
        return min((score for _, score in self.curve), default=math.inf)

    @property
    def reached(self) -> float | None:
        """Processor seconds until the target was seen to be met, or None."""
        return next((cost for cost, score in self.curve if score <= TARGET), None)

    @property
    def missed(self) -> float:
        """Processor seconds at the last look that found the target not yet met; 0 without one."""
        costs = (cost for cost, score in self.curve if score > TARGET)
        return max((cost for cost in costs if cost < (self.reached or math.inf)), default=0.0)

    def advance(self, seconds: float) -> None:
        """Train for some seconds of processor time, but not past the next look."""
        until = min(self.seconds + seconds, self.next_look)
        while self.seconds < until:
            start = time.process_time()
            self.step()
            self.seconds += time.process_time() - start
            self.steps += 1

    def look(self, judge: Judge) -> None:
        """Score samples if it is time to; that is not counted as training.

        The next look comes after a quarter more of training, and not before training has taken as
        long again as this look did.
        """
        if self.seconds < self.next_look:
            return
        start = time.process_time()
        samples = self.recipe.contender.sample(judge.n, self.sampling_steps)
        self.curve.append((self.seconds, judge.score(samples)))
        self.next_look = self.seconds + max(self.seconds / 4, time.process_time() - start)


def quality(
    settings: Settings, recipes: Recipes, judges: Mapping[str, Callable[[], Judge]]
) -> Iterator[Table]:
    """Train all contenders in turn, a slice of time each, until the target or the limit: part d.

    Parameters
    ----------
    settings
        What the command line decides.
    recipes
        Who competes.
    judges
        Makes the judge of each data set, by its name.

    Yields
    ------
    Table
        After every turn: seconds to the target, and the curves so far.
    """
    for name, make_judge in judges.items():
        judge = make_judge()
        runs: dict[str, list[Runner]] = {}
        for seed in range(settings.seeds):
            torch.manual_seed(seed)
            new = {
                who: Runner(
                    recipe,
                    recipe.contender.trainer(judge.train, recipe.batch_size),
                    5 if settings.quick else SAMPLING_STEPS,
                )
                for who, recipe in recipes(name, seed).items()
            }
            for who, runner in new.items():
                runs.setdefault(who, []).append(runner)
            for _ in turns(new, judge, settings.limit, f"d: {name}, seed {seed}"):
                yield outcome(name, judge, runs, settings)
                yield curves(name, runs)


def turns(runners: Mapping[str, Runner], judge: Judge, limit: float, title: str) -> Iterator[None]:
    """Let runners train in turn, two seconds each, until every one is done.

    Parameters
    ----------
    runners
        By name.
    judge
        Scores their samples.
    limit
        Seconds of processor time for each.
    title
        What the progress bar says.

    Yields
    ------
    None
        After every turn.
    """
    with tqdm(total=round(limit), desc=title, unit="s", leave=False) as bar:
        turn = 0
        while going := [
            who for who, r in runners.items() if r.reached is None and r.seconds < limit
        ]:
            for who in rotated(going, turn):
                runners[who].next_look = min(runners[who].next_look, limit)
                runners[who].advance(2.0)
                runners[who].look(judge)
            bar.set_postfix_str(", ".join(f"{who} {runners[who].best:.2f}" for who in going))
            bar.update(round(min(runners[who].seconds for who in going)) - bar.n)
            turn += 1
            yield


def outcome(name: str, judge: Judge, runs: Mapping[str, list[Runner]], settings: Settings) -> Table:
    """Tabulate processor seconds until the target, or how near a contender came.

    Parameters
    ----------
    name
        Of the data set.
    judge
        Has the floor.
    runs
        Trainings of each contender, one for each seed.
    settings
        What the command line decides.

    Returns
    -------
    Table
        The first contender is the one that the last column compares with.
    """
    first = next(iter(runs))
    rows = tuple(_outcome_row(who, trainings, runs[first]) for who, trainings in runs.items())
    return Table(
        f"Time to quality: {name}",
        (
            "contender",
            "parameters",
            "batch",
            "CPU-seconds",
            "steps",
            "best, in floors",
            f"over {first}, at least",
        ),
        rows,
        f"CPU-seconds of training until the Frechet distance of {judge.n} samples (DDIM-"
        f"{runs[first][0].sampling_steps}) to as many unseen images is at most {TARGET} times its floor of "
        f"{judge.floor:.1f}, that of real images. Measured from {FIRST_LOOK:g} s on, each time after a "
        f"quarter more of training or as long as a measurement takes; limit {settings.limit:g} s. "
        "The last column divides the time at which a contender had not yet arrived by the time at "
        f"which {first} had.",
    )


def _outcome_row(who: str, trainings: list[Runner], baseline: list[Runner]) -> Row:
    reached = [runner.reached for runner in trainings if runner.reached is not None]
    spent = max(runner.seconds for runner in trainings)
    all_reached = len(reached) == len(trainings)
    return (
        who,
        parameters(trainings[0].recipe.contender.network),
        trainings[0].recipe.batch_size,
        summarise(reached) if all_reached else f"not reached in {spent:.0f} s",
        summarise([float(runner.steps) for runner in trainings]),
        summarise([runner.best for runner in trainings]),
        _at_least(trainings, baseline),
    )


def _at_least(trainings: list[Runner], baseline: list[Runner]) -> Summary | None:
    """Return by what factor a contender was slower than the baseline, seed by seed, if that arrived."""
    if trainings is baseline or any(runner.reached is None for runner in baseline):
        return None
    pairs = zip(trainings, baseline, strict=True)
    return summarise([runner.missed / (first.reached or math.inf) for runner, first in pairs])


def curves(name: str, runs: Mapping[str, list[Runner]]) -> Table:
    """Tabulate all scores that were measured, for the figure.

    Parameters
    ----------
    name
        Of the data set.
    runs
        Trainings of each contender, one for each seed.

    Returns
    -------
    Table
        One row for each score.
    """
    rows = tuple(
        (who, seed, cost, score)
        for who, trainings in runs.items()
        for seed, runner in enumerate(trainings)
        for cost, score in runner.curve
    )
    return Table(f"{CURVES}{name}", ("contender", "seed", "CPU-seconds", "floors"), rows)
