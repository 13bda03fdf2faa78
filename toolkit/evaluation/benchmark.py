"""A benchmark run: measures the entries of a suite in turn; an error in one does not end the others."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toolkit.assets import AssetError
from toolkit.config import parse_overrides
from toolkit.contracts import DataError
from toolkit.evaluation.entries import DEFAULT_BASELINES, Entry, baseline_entries, tokenizer_entry, unquantized
from toolkit.evaluation.report import write_report
from toolkit.evaluation.results import Evaluation, Row, finished_row, measure, write_row
from toolkit.evaluation.sweep import Variant, train, variants_of
from toolkit.evaluation.table import markdown
from toolkit.registry import PluginError, UnknownComponentError

logger = logging.getLogger(__name__)
ERRORS = (AssetError, DataError, OSError, PluginError, RuntimeError, TypeError, UnknownComponentError, ValueError)
OnError = Callable[[object, Exception], None]  # called with what failed


def rows_of(evaluation: Evaluation, on_error: OnError) -> list[dict[str, Any]]:
    """The row of every entry, baselines last; rows that are already finished are read."""
    rows = []
    for order, entry in enumerate(entries_of(evaluation, on_error)):
        path = evaluation.folder / f"{entry.name}.json"
        try:
            row = finished_row(path, evaluation.fingerprint(entry))
            if row is None:
                logger.info("measuring %s.", entry.title)
                row = measure(evaluation, entry, order=order)
                if evaluation.state.is_main_process:
                    write_row(path, row)
            else:
                logger.info("%s is already measured: %s.", entry.title, path)
            rows.append(row)
            if row["unreadable"]:
                raise ValueError(f"unreadable files were skipped: {'; '.join(row['unreadable'].values())}")
        except ERRORS as error:
            on_error(entry.title, error)
        evaluation.state.wait_for_everyone()
    return sorted(rows, key=lambda row: row["kind"] == "baseline")


def write_summary(evaluation: Evaluation, rows: Sequence[Row]) -> None:
    """Write the table and the report page beside the rows."""
    (evaluation.folder / "table.md").write_text(markdown(rows) + "\n")
    write_report(rows, evaluation.folder / "report.html", title=f"Tokenizers on {evaluation.name}")


def entries_of(evaluation: Evaluation, on_error: OnError) -> list[Entry]:
    """The tokenizers (those of a sweep are trained here) and their baselines."""
    protocol, tokenizers, continuous = evaluation.protocol, [], []
    for path in evaluation.options.tokenizer:
        title = path.resolve().parent.name if path.name == "tokenizer" else path.resolve().name
        try:
            tokenizers.append(tokenizer_entry(path, protocol, name=title, title=title))
            continuous.append(unquantized(tokenizers[-1]))
        except ERRORS as error:
            on_error(path, error)
    for variant, path, training in _trained(evaluation, on_error):
        entry = tokenizer_entry(path, protocol, name=variant.name, title=variant.title, training=training)
        if entry.rate is None and variant.name == "no_quantizer":
            continuous.append(dataclasses.replace(entry, kind="baseline"))
        else:
            tokenizers.append(entry)
    names = list(dict.fromkeys([*DEFAULT_BASELINES, *evaluation.options.baseline]))
    entries = [*tokenizers, *(baseline_entries(names, tokenizers, protocol) if tokenizers else []), *continuous]
    names = [entry.name for entry in entries]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"rows need different names, got two of {', '.join(sorted(repeated))}; rename a folder "
                         "of a tokenizer.")
    return entries


def _trained(evaluation: Evaluation, on_error: OnError) -> list[tuple[Variant, Path, dict[str, Any]]]:
    """The variants of the sweep with the directory of the tokenizer and a summary; failed ones are left out."""
    options = evaluation.options
    if not options.train:
        return []
    overrides, steps = parse_overrides(list(options.cfg_options)), options.steps
    if steps is None and "training.max_steps" not in overrides:
        steps = evaluation.suite.steps
    trained = []
    for variant in variants_of(list(options.train), steps=steps, overrides=overrides):
        try:
            trained.append((variant, *train(variant, evaluation.folder / "training")))
        except ERRORS as error:
            on_error(f"training {variant.title}", error)
        evaluation.state.wait_for_everyone()
    return trained
