"""Leaderboards: entries of one rate, network, data and FLOP budget, each trained with several seeds."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from mmengine.config import Config

from toolkit.build import build_component, build_run
from toolkit.config import load_config
from toolkit.evaluation.benchmark import ERRORS, NO_QUANTIZER, OnError, Variant, measured_row, report_unreadable, train
from toolkit.evaluation.entries import DEFAULT_BASELINES, Entry, baselines_at_rate, tokenizer_entry
from toolkit.evaluation.leaderboard_table import PLAN, leaderboard_markdown
from toolkit.evaluation.protocol import find_file, json_hash, load_suite, load_variable
from toolkit.evaluation.results import Evaluation, Options, finished_row
from toolkit.io.atomic_write import atomic_write
from toolkit.registry import QUANTIZERS
from toolkit.tokenizer import Tokenizer
from toolkit.training.validation import bits_per_pixel

logger = logging.getLogger(__name__)
BASELINES = (*DEFAULT_BASELINES, "MeanColour")
SAME = ("tokenizer.encoder", "tokenizer.decoder", "data", "seed", "training.max_steps", "training.max_flops",
        "training.init_from")  # settings that no entry may change


@dataclass(frozen=True)
class LeaderboardEntry:
    """One entry: what it changes in the config of its leaderboard."""

    name: str  # in file names
    title: str  # in tables
    overrides: Mapping[str, Any] = field(default_factory=dict)  # dotted keys and values, as for ``load_config``
    base: str | None = None  # name of the entry of which this is a variant; it is compared with that entry only


@dataclass(frozen=True)
class Leaderboard:
    """What a leaderboard trains and measures. A ValueError names what is wrong.

    Every entry is trained with every seed for ``flops``; so is the first entry's network without a quantizer.
    """

    config: str  # the config of all entries, relative to the folder of the leaderboard's file
    entries: tuple[LeaderboardEntry, ...]
    suites: tuple[str, ...]  # names, or .py files relative to the folder of the leaderboard's file
    flops: float  # of each training, on all processes
    seeds: tuple[int, ...] = (0, 1, 2)
    compared: tuple[str, ...] = ("psnr", "lpips_vgg")  # the scores that sentences compare

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        for what, values in (("entries", names), ("suites", [Path(suite).stem for suite in self.suites]),
                             ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"a leaderboard needs one or more different {what}, got {list(values)}.")
        if not self.flops > 0:
            raise ValueError(f"a leaderboard needs flops > 0, got {self.flops!r}.")
        if NO_QUANTIZER in names:
            raise ValueError(f"a leaderboard trains {NO_QUANTIZER!r} by itself; rename that entry.")
        bases = {entry.name for entry in self.entries if entry.base is None}
        for entry in self.entries:
            if entry.base is not None and entry.base not in bases:
                raise ValueError(f"entry {entry.name} of a leaderboard needs as base an entry without a base, got "
                                 f"{entry.base!r}; there are {', '.join(sorted(bases)) or 'none'}.")


def load_leaderboard(file: Path) -> Leaderboard:
    """``LEADERBOARD`` of a file."""
    return load_variable(file, "LEADERBOARD", Leaderboard)


@dataclass(frozen=True)
class Recipe:
    """A resolved entry. Its seed is set for each training."""

    name: str
    title: str
    base: str | None
    kind: str  # see ``Entry.kind``
    config: Config

    @property
    def hash(self) -> str:
        """12 hex digits of the config without its seed."""
        return json_hash({key: value for key, value in self.config.to_dict().items() if key != "seed"})[:12]

    def with_seed(self, seed: int) -> Config:
        """The config of one training."""
        config = copy.deepcopy(self.config)
        config.seed = seed
        return config


@dataclass(frozen=True)
class TrainedEntry(Entry):
    """A tokenizer that is identified by its recipe and its seed, so that its row stays finished without its weights."""

    recipe: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """The recipe and the seed."""
        return {"recipe": self.recipe, "seed": self.training["seed"]}


def recipes_of(leaderboard: Leaderboard, folder: Path) -> list[Recipe]:
    """The recipes of all entries, then the first one's without a quantizer; ``folder`` is of the leaderboard's file.

    Raises:
        ValueError: If an entry cannot be built, or changes one of the settings that all entries share.
    """
    path, length = folder / leaderboard.config, {"training.max_steps": None, "training.max_flops": leaderboard.flops}
    common = load_config(path, length)
    recipes = []
    for entry in leaderboard.entries:
        config = load_config(path, length | dict(entry.overrides))
        for key in SAME:
            if _value(config, key) != _value(common, key):
                raise ValueError(f"entry {entry.name} of a leaderboard may not change {key}: it has "
                                 f"{_value(config, key)}, and the others {_value(common, key)}.")
        recipes.append(Recipe(entry.name, entry.title, entry.base, "tokenizer", config))
    without = copy.deepcopy(recipes[0].config)
    quantizer = build_component(QUANTIZERS, without.tokenizer.quantizer)
    without.tokenizer.quantizer = dict(type="Identity", dim=quantizer.dim)
    return [*recipes, Recipe(NO_QUANTIZER, "no quantizer", None, "baseline", without)]


def _value(config: Any, key: str) -> Any:
    """The value of a dotted key; None where it is not set."""
    for name in key.split("."):
        config = (config or {}).get(name)
    return config


def build_and_check(recipes: Sequence[Recipe], sizes: Mapping[str, tuple[int, int, int]], *,
                    num_processes: int) -> Tokenizer:
    """Build all recipes without weights, and compare their rates for each suite's samples (T, H, W).

    Returns:
        The first recipe's tokenizer, on the meta device.

    Raises:
        ValueError: If a recipe cannot be built or trained within its FLOPs, or its rate is not the first one's.
    """
    tokenizers = {}
    for recipe in recipes:
        try:
            run = build_run(recipe.with_seed(0), num_processes=num_processes, weights=False)
        except ERRORS as error:
            raise ValueError(f"entry {recipe.name} of the leaderboard: {error}") from error
        if recipe.kind == "tokenizer":
            tokenizers[recipe.name] = run.tokenizer
    first = tokenizers[recipes[0].name]
    for suite, size in sizes.items():
        for name, tokenizer in tokenizers.items():
            rate, first_rate = bits_per_pixel(tokenizer, size), bits_per_pixel(first, size)
            if rate is None or first_rate is None:
                raise ValueError(f"entry {name} of a leaderboard needs a discrete quantizer, got "
                                 f"{type(tokenizer.quantizer).__name__}.")
            if round(rate, 9) != round(first_rate, 9):
                raise ValueError(f"entries of a leaderboard need one rate, got {first_rate:.6g} bits/pixel of "
                                 f"{recipes[0].name} and {rate:.6g} of {name} on {suite}; change the quantizer.")
    return first


class LeaderboardRun:
    """A run of a leaderboard. Every process makes one.

    The folder gets ``results/`` (``leaderboard.json`` and a file for each row, by suite), ``training/`` (a work dir
    for each entry and seed), ``suites/`` (videos and features of the targets) and ``table.md``. A training whose rows
    are finished in all suites is skipped; the weights are not needed for that.

    Args:
        name: A leaderboard in the folder ``files``, or a .py file.
        files: The folder of the leaderboards.
        suites: The folder of the suites.
        folder: The folder of the run.
        options: ``batch_size``, ``num_workers``, ``device`` and ``baseline`` are used.
        state: The processes.

    Raises:
        ValueError: If there is no such leaderboard or suite, or an entry does not fit the others.
    """

    def __init__(self, name: str, *, files: Path, suites: Path, folder: Path, options: Options, state: PartialState):
        file = find_file(name, files, kind="leaderboard")
        self.name, self.folder, self.options, self.state = file.stem, folder, options, state
        self.leaderboard = load_leaderboard(file)
        self.config_name = Path(self.leaderboard.config).name
        self.evaluations = {}
        for suite in self.leaderboard.suites:
            path = str(file.parent / suite) if suite.endswith(".py") else suite
            stem = Path(suite).stem
            self.evaluations[stem] = Evaluation(stem, load_suite(path, suites), folder / "suites" / stem, options,
                                                state=state)
        self.recipes = recipes_of(self.leaderboard, file.parent)
        sizes = {suite: evaluation.protocol.sample_size for suite, evaluation in self.evaluations.items()}
        self.tokenizer = build_and_check(self.recipes, sizes, num_processes=state.num_processes)
        self.baselines = list(dict.fromkeys([*BASELINES, *options.baseline]))

    def run(self, on_error: OnError) -> str:
        """Train and measure, all entries with the first seed first; returns the table, in Markdown."""
        if self.state.is_main_process:
            self._write(self.folder / "results" / PLAN, json.dumps(self.plan(), indent=1) + "\n")
        for suite, evaluation in self.evaluations.items():
            self._measure_baselines(suite, evaluation, on_error)
        for seed in self.leaderboard.seeds:
            for number, recipe in enumerate(self.recipes):
                try:
                    self._train_and_measure(recipe, seed, order=len(self.baselines) + number, on_error=on_error)
                except ERRORS as error:
                    on_error(f"{recipe.title}, seed {seed}", error)
                self.state.wait_for_everyone()
        table = leaderboard_markdown(self.folder / "results")
        if self.state.is_main_process:
            self._write(self.folder / "table.md", table + "\n")
        return table

    def plan(self) -> dict[str, Any]:
        """What ``leaderboard.json`` has: everything besides the rows that the tables need."""
        return {"name": self.name, "flops": self.leaderboard.flops, "seeds": list(self.leaderboard.seeds),
                "compared": list(self.leaderboard.compared),
                "suites": {suite: evaluation.protocol.hash for suite, evaluation in self.evaluations.items()},
                "entries": [{"name": recipe.name, "title": recipe.title, "base": recipe.base, "recipe": recipe.hash}
                            for recipe in self.recipes]}

    def _measure_baselines(self, suite: str, evaluation: Evaluation, on_error: OnError) -> None:
        """Measure the untrained baselines in a suite, at the rate of the entries."""
        entries = baselines_at_rate(self.baselines, self.tokenizer, evaluation.protocol)
        for order, entry in enumerate(entries):
            try:
                path = self.folder / "results" / suite / f"{entry.name}.json"
                report_unreadable(measured_row(evaluation, entry, path, order=order), on_error)
            except ERRORS as error:
                on_error(f"{entry.title} in {suite}", error)
            self.state.wait_for_everyone()

    def _train_and_measure(self, recipe: Recipe, seed: int, *, order: int, on_error: OnError) -> None:
        """Train a recipe with a seed and measure it in every suite, unless all its rows are finished."""
        name, summary = f"{recipe.name}_seed{seed}", {"entry": recipe.name, "recipe": recipe.hash, "seed": seed}
        planned = TrainedEntry(name, recipe.title, recipe.kind, {}, training=summary, recipe=recipe.hash)
        paths = {suite: self.folder / "results" / suite / f"{name}.json" for suite in self.evaluations}
        rows = [finished_row(paths[suite], evaluation.fingerprint(planned))
                for suite, evaluation in self.evaluations.items()]
        if all(rows):
            logger.info("%s with seed %d is already measured.", recipe.title, seed)
            for row in rows:
                report_unreadable(row, on_error)
            return
        variant = Variant(name, f"{recipe.title}, seed {seed}", Path(self.config_name), recipe.with_seed(seed))
        tokenizer, trained = train(variant, self.folder / "training", num_processes=self.state.num_processes)
        for suite, evaluation in self.evaluations.items():
            spec = tokenizer_entry(tokenizer, evaluation.protocol, name=name, title=recipe.title).spec
            entry = dataclasses.replace(planned, spec=spec, training=trained | summary)
            report_unreadable(measured_row(evaluation, entry, paths[suite], order=order), on_error)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_text(text)
