"""A benchmark run: measures the entries of a suite in turn; an error in one does not end the others."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from toolkit.assets import AssetError
from toolkit.config import parse_overrides
from toolkit.contracts import DataError
from toolkit.evaluation.entries import DEFAULT_BASELINES, Entry, baseline_entries, tokenizer_entry, unquantized
from toolkit.evaluation.protocol import Protocol, Suite
from toolkit.evaluation.report import write_report
from toolkit.evaluation.results import Evaluation, finished_row, measure, write_row
from toolkit.evaluation.sweep import Variant, train, variants_of
from toolkit.evaluation.table import markdown
from toolkit.registry import PluginError, UnknownComponentError

logger = logging.getLogger(__name__)
ERRORS = (AssetError, DataError, OSError, PluginError, RuntimeError, TypeError, UnknownComponentError, ValueError)


@dataclass(frozen=True)
class Options:
    """The command line options of benchmarks/run.py."""

    tokenizer: Sequence[Path] = ()
    train: Sequence[Path] = ()
    steps: int | None = None
    cfg_options: Sequence[str] = ()
    data: Path | None = None
    limit: int | None = None
    metrics: Sequence[str] = ()
    baseline: Sequence[str] = ()
    batch_size: int = 4
    num_workers: int = 0
    device: str | None = None


def protocol_of(name: str, protocol: Protocol, options: Options) -> Protocol:
    """The protocol with the ``limit`` and ``metrics`` of the options; ``name`` is the suite's, for messages."""
    if options.metrics:
        known = [config["type"] for config in protocol.metrics]
        unknown = [metric for metric in options.metrics if metric not in known]
        if unknown:
            raise ValueError(f"suite {name} has no metric {', '.join(unknown)}; it has {', '.join(known)}.")
        metrics = tuple(config for config in protocol.metrics if config["type"] in options.metrics)
        protocol = dataclasses.replace(protocol, metrics=metrics)
    if options.limit is not None:
        if options.limit < 1:
            raise ValueError(f"--limit needs at least 1 sample, got {options.limit}.")
        protocol = dataclasses.replace(protocol, num_samples=options.limit)
    return protocol


class SuiteRun:
    """Measures the entries of one suite; every process of a group makes one."""

    def __init__(self, name: str, suite: Suite, folder: Path, options: Options, *, state: PartialState,
                 on_error: Callable[[str], None]):
        self.suite, self.folder, self.options, self.state = suite, folder, options, state
        self.on_error, self.failed = on_error, False
        self.evaluation = Evaluation(
            name, suite, protocol_of(name, suite.protocol, options), folder,
            str(options.data) if options.data else suite.path, options.limit, options.batch_size, options.num_workers,
            torch.device(options.device) if options.device else state.device, rank=state.process_index,
            world_size=state.num_processes)

    def entries(self) -> list[Entry]:
        """The tokenizers (those of a sweep are trained here) and their baselines."""
        protocol, tokenizers, continuous = self.evaluation.protocol, [], []
        for path in self.options.tokenizer:
            title = path.resolve().parent.name if path.name == "tokenizer" else path.resolve().name
            try:
                tokenizers.append(tokenizer_entry(path, protocol, name=title, title=title))
                continuous.append(unquantized(tokenizers[-1]))
            except ERRORS as error:
                self._fail(str(path), error)
        for variant, path, training in self._trained():
            entry = tokenizer_entry(path, protocol, name=variant.name, title=variant.title, training=training)
            if entry.rate is None and variant.name == "no_quantizer":
                continuous.append(dataclasses.replace(entry, kind="baseline"))
            else:
                tokenizers.append(entry)
        names = list(dict.fromkeys([*DEFAULT_BASELINES, *self.options.baseline]))
        entries = [*tokenizers, *(baseline_entries(names, tokenizers, protocol) if tokenizers else []), *continuous]
        names = [entry.name for entry in entries]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"rows need different names, got two of {', '.join(sorted(repeated))}; rename a folder "
                             "of a tokenizer.")
        return entries

    def rows(self) -> list[dict[str, Any]]:
        """The row of every entry; rows that are already finished are read."""
        rows = []
        for order, entry in enumerate(self.entries()):
            path = self.folder / f"{entry.name}.json"
            try:
                row = finished_row(path, self.evaluation.fingerprint(entry))
                if row is None:
                    logger.info("measuring %s.", entry.title)
                    row = measure(self.evaluation, entry, order=order)
                    if self.state.is_main_process:
                        write_row(path, row)
                else:
                    logger.info("%s is already measured: %s.", entry.title, path)
                rows.append(row)
                if row["unreadable"]:
                    reasons = "; ".join(row["unreadable"].values())
                    self._fail(entry.title, ValueError(f"unreadable files were skipped: {reasons}"))
            except ERRORS as error:
                self._fail(entry.title, error)
            self.state.wait_for_everyone()
        return sorted(rows, key=lambda row: row["kind"] == "baseline")

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the table and the report page beside the rows."""
        (self.folder / "table.md").write_text(markdown(rows) + "\n")
        write_report(rows, self.folder / "report.html", title=f"Tokenizers on {self.evaluation.suite}")

    def _trained(self) -> list[tuple[Variant, Path, dict[str, Any]]]:
        """The variants of the sweep with the directory of the tokenizer and a summary; failed ones are left out."""
        if not self.options.train:
            return []
        overrides, steps = parse_overrides(list(self.options.cfg_options)), self.options.steps
        if steps is None and "training.max_steps" not in overrides:
            steps = self.suite.steps
        trained = []
        for variant in variants_of(list(self.options.train), steps=steps, overrides=overrides):
            try:
                trained.append((variant, *train(variant, self.folder / "training")))
            except ERRORS as error:
                self._fail(f"training {variant.title}", error)
            self.state.wait_for_everyone()
        return trained

    def _fail(self, subject: str, error: Exception) -> None:
        self.failed = True
        if self.state.is_main_process:
            self.on_error(f"{subject}: {' '.join(str(error).split())[:600]}")
