"""A benchmark run: trains a sweep, then measures every entry. A failed training or entry is reported and skipped."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from mmengine.config import Config

from toolkit.assets import AssetError
from toolkit.build import build_component, build_run, build_trainer
from toolkit.config import ConfigError, load_config, parse_overrides
from toolkit.contracts import DataError
from toolkit.evaluation.entries import DEFAULT_BASELINES, Entry, baseline_entries, latents_entry, tokenizer_entry
from toolkit.evaluation.report import write_report
from toolkit.evaluation.results import Evaluation, Row, finished_row, measure
from toolkit.evaluation.table import markdown
from toolkit.io.atomic_write import atomic_write
from toolkit.profiling.training_flops import TrainingFlops
from toolkit.registry import QUANTIZERS, PluginError, UnknownComponentError
from toolkit.training.checkpoint import checkpoint_step, checkpoints_in

logger = logging.getLogger(__name__)
ERRORS = (AssetError, DataError, OSError, PluginError, RuntimeError, TypeError, UnknownComponentError, ValueError)
NO_QUANTIZER = "no_quantizer"  # name of the variant that is trained without a quantizer
LENGTH = ("max_steps", "max_flops")  # settings of a training's length; a config has one of them
OnError = Callable[[object, Exception], None]  # called with the subject and its error


def measure_entries(evaluation: Evaluation, on_error: OnError) -> list[dict[str, Any]]:
    """Train the sweep and measure every entry; write and return the rows, baselines last. Finished rows are read."""
    rows = []
    for order, entry in enumerate(train_and_list_entries(evaluation, on_error)):
        try:
            rows.append(measured_row(evaluation, entry, evaluation.folder / f"{entry.name}.json", order=order))
            report_unreadable(rows[-1], on_error)
        except ERRORS as error:
            on_error(entry.title, error)
        evaluation.state.wait_for_everyone()
    return rows


def measured_row(evaluation: Evaluation, entry: Entry, path: Path, *, order: int) -> dict[str, Any]:
    """The row of an entry: read from the file if it is finished, else measured and written."""
    row = finished_row(path, evaluation.fingerprint(entry))
    if row is not None:
        logger.info("%s is already measured: %s.", entry.title, path)
        return row
    logger.info("measuring %s.", entry.title)
    row = measure(evaluation, entry, order=order)
    if evaluation.state.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(row, indent=1, allow_nan=False) + "\n")
    return row


def report_unreadable(row: Row, on_error: OnError) -> None:
    """Report the unreadable files of a row."""
    if reasons := "; ".join(row["unreadable"].values()):
        on_error(row["title"], ValueError(f"unreadable files were skipped: {reasons}"))


def write_summary(evaluation: Evaluation, rows: Sequence[Row]) -> None:
    """Write the table and the report page beside the rows."""
    (evaluation.folder / "table.md").write_text(markdown(rows) + "\n")
    write_report(rows, evaluation.folder / "report.html", title=f"Tokenizers on {evaluation.name}")


def train_and_list_entries(evaluation: Evaluation, on_error: OnError) -> list[Entry]:
    """Train the configs of the sweep; the entries of all tokenizers, then those of their baselines."""
    protocol, tokenizers, without_quantizer = evaluation.protocol, [], []
    options = evaluation.options
    for path in options.tokenizer:
        folder = Path(path).expanduser().resolve()
        title = folder.parent.name if folder.name == "tokenizer" else folder.name
        try:
            tokenizers.append(tokenizer_entry(path, protocol, name=title, title=title, revision=options.revision,
                                              subfolder=options.subfolder))
            without_quantizer.append(latents_entry(tokenizers[-1]))
        except ERRORS as error:
            on_error(path, error)
    for entry in _trained(evaluation, on_error):
        if entry.rate is None and entry.name == NO_QUANTIZER:
            without_quantizer.append(dataclasses.replace(entry, kind="baseline"))
        else:
            tokenizers.append(entry)
    types = list(dict.fromkeys([*DEFAULT_BASELINES, *options.baseline]))
    baselines = baseline_entries(types, tokenizers, protocol) if tokenizers else []
    entries = [*tokenizers, *baselines, *without_quantizer]
    names = [entry.name for entry in entries]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"rows need different names, got two of {', '.join(sorted(repeated))}; rename a "
                         "tokenizer's folder or a config's file.")
    return entries


def _trained(evaluation: Evaluation, on_error: OnError) -> list[Entry]:
    """The entries of the variants of the sweep; failed trainings are skipped and reported."""
    options = evaluation.options
    steps = options.steps
    if steps is None and options.flops is None and not any(
            f"training.{name}" in parse_overrides(options.cfg_options) for name in LENGTH):
        steps = evaluation.suite.steps
    entries = []
    for variant in variants_of(options.train, steps=steps, flops=options.flops,
                               options=options.cfg_options) if options.train else ():
        try:
            path, summary = train(variant, evaluation.folder / "training",
                                  num_processes=evaluation.state.num_processes)
            entries.append(tokenizer_entry(path, evaluation.protocol, name=variant.name, title=variant.title,
                                           training=summary))
        except ERRORS as error:
            on_error(f"training {variant.title}", error)
        evaluation.state.wait_for_everyone()
    return entries


@dataclass(frozen=True)
class Variant:
    """One config of a sweep."""

    name: str  # name of its row
    title: str
    source: Path  # the config file
    config: Config  # resolved


def variants_of(paths: list[Path], *, steps: int | None, flops: float | None = None,
                overrides: Mapping[str, Any] | None = None, options: Sequence[str] = ()) -> list[Variant]:
    """One variant of each config, with the first one's data and seed; then the first with Identity.

    All have the given number of steps or FLOPs, else that of the first config.
    """
    configs = [load_config(path, overrides, options=options) for path in paths]
    first = configs[0]
    for path, config in zip(paths, configs, strict=True):
        if missing := [key for key in ("tokenizer", "objective", "data", "training") if key not in config]:
            raise ConfigError(f"config {path} cannot be trained: it lacks {', '.join(missing)}.")
        if steps is not None or flops is not None:
            _set_length(config, (steps, flops))
        if _length_of(config) == (None, None):
            raise ConfigError(f"config {path} cannot be trained: it lacks training.max_steps or training.max_flops.")
        if config is first:
            continue
        if (config.data, config.get("seed", 0), _length_of(config)) != (
                first.data, first.get("seed", 0), _length_of(first)):
            logger.warning("%s trains on the data, with the seed and for the steps or FLOPs of %s.", path, paths[0])
        config.data, config.seed = copy.deepcopy(first.data), first.get("seed", 0)
        _set_length(config, _length_of(first))
    types = [config.tokenizer.quantizer.type for config in configs]
    variants = []
    for path, config, type_ in zip(paths, configs, types, strict=True):
        title = type_ if types.count(type_) == 1 else Path(path).stem
        variants.append(Variant(title.lower(), title, Path(path), config))
    config = copy.deepcopy(first)
    config.tokenizer.quantizer = dict(type="Identity", dim=build_component(QUANTIZERS, first.tokenizer.quantizer).dim)
    title = f"{variants[0].title}'s network, no quantizer"
    return [*variants, Variant(NO_QUANTIZER, title, Path(paths[0]), config)]


def _length_of(config: Config) -> tuple[Any, ...]:
    """(max_steps, max_flops) of a config."""
    return tuple(config.training.get(name) for name in LENGTH)


def _set_length(config: Config, length: tuple[Any, ...]) -> None:
    """Set (max_steps, max_flops); a key that stays None is not added, as the config's text names the work dir."""
    for name, value in zip(LENGTH, length, strict=True):
        if value is not None or name in config.training:
            config.training[name] = value


def steps_and_flops(config: Config, *, num_processes: int) -> tuple[int, int | None]:
    """Optimizer steps of a config's training, and their FLOPs on all processes; None if they cannot be counted."""
    run = build_run(copy.deepcopy(config), num_processes=num_processes, weights=False)
    steps = run.settings.max_steps
    try:
        return steps, TrainingFlops(run, num_processes=num_processes).total(steps)
    except ERRORS as error:  # a plugin may do anything with tensors without values; the training needs no count
        logger.warning("the FLOPs of the training are not in its row: %s", error)
        return steps, None


def train(variant: Variant, folder: Path, *, num_processes: int = 1) -> tuple[Path, dict[str, Any]]:
    """Train a variant or resume its training; returns the directory of the tokenizer and a summary."""
    source, config = variant.source, variant.config
    work_dir = folder / f"{variant.name}-{hashlib.sha256(config.pretty_text.encode()).hexdigest()[:10]}"
    saved_steps = [checkpoint_step(path) for path in checkpoints_in(work_dir / "checkpoints")]
    source = source.relative_to(Path.cwd()) if source.is_relative_to(Path.cwd()) else source  # shorter in the summary
    tokenizer, (steps, flops) = work_dir / "tokenizer", steps_and_flops(config, num_processes=num_processes)
    summary = {"config": str(source), "steps": steps, "flops": flops, "seed": config.get("seed", 0)}
    if max(saved_steps, default=None) == steps and (tokenizer / "model.safetensors").is_file():
        logger.info("%s is already trained: %s.", variant.title, tokenizer)
        return tokenizer, summary
    logger.info("training %s for %d steps in %s.", variant.title, steps, work_dir)
    AcceleratorState._reset_state()  # else it keeps the precision of the previous variant
    trainer = build_trainer(copy.deepcopy(config), work_dir=work_dir, resume=bool(saved_steps))
    if not trainer.run():  # it was interrupted
        raise KeyboardInterrupt
    return tokenizer, summary
