"""Tables and sentences of a leaderboard, made from its result files alone."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.evaluation.differences import Difference, SeedScore, difference_beyond_spread
from toolkit.evaluation.intervals import jackknife_interval
from toolkit.evaluation.results import Row
from toolkit.evaluation.table import PLUS_MINUS, markdown, rows_of_folder, score_columns

logger = logging.getLogger(__name__)
PLAN = "leaderboard.json"  # in the folder of results: the entries, seeds, suites and FLOPs
NO_RESULTS = "No results yet."
SORT_BY = "psnr"
HEADINGS = ("bits/pixel", "PSNR (dB)", "SSIM", "LPIPS (Alex)", "LPIPS (VGG)", "rFID", "rFVD", "codes used (%)",
            "training (PFLOP)")
Plan = Mapping[str, Any]
Rows = Mapping[str, Mapping[int, Row]]  # entry -> seed -> row


def read_results(folder: Path, plan: Plan, suite: str) -> tuple[Rows, list[Row]]:
    """The rows of a suite: those of entries, and those of untrained baselines.

    A row of another recipe, protocol or seed than the plan's is left out, and the log says so.
    """
    planned = {(entry["name"], entry["recipe"], seed) for entry in plan["entries"] for seed in plan["seeds"]}
    trained: dict[str, dict[int, Row]] = {entry["name"]: {} for entry in plan["entries"]}
    baselines, ignored = [], []
    for row in rows_of_folder(folder / suite):
        training = row["training"] or {}
        if row["protocol_hash"] != plan["suites"][suite]:
            ignored.append(row["name"])
        elif not training:
            baselines.append(row)
        elif (training.get("entry"), training.get("recipe"), training.get("seed")) in planned:
            trained[training["entry"]][training["seed"]] = row
        else:
            ignored.append(row["name"])
    if ignored:
        logger.warning("%s: rows of another recipe, protocol or seed are not in the table: %s.", folder / suite,
                       ", ".join(ignored))
    return trained, baselines


def mean_row(rows: Sequence[Row], *, num_seeds: int) -> dict[str, Any]:
    """The mean row of an entry's seeds: of each score the mean, the lowest and highest seed, and an interval over data.

    A score is None unless every seed has it. ``seeds`` is a text: "3", or "2 of 3" if one is not measured yet.
    """
    first = rows[0]
    count = f"{len(rows)}" if len(rows) == num_seeds else f"{len(rows)} of {num_seeds}"
    scores = {name: _mean(row["scores"].get(name) for row in rows) for name in first["scores"]}
    complete = [name for name, score in scores.items() if score is not None]
    ranges = {name: [min(values), max(values)] for name in complete
              if len(values := [row["scores"][name] for row in rows]) > 1}
    without_block = {name: list(map(statistics.fmean, zip(*replicates, strict=True))) for name in complete
                     if (replicates := _replicates(rows, name))}
    intervals = {name: jackknife_interval(scores[name], without_block=replicates)
                 for name, replicates in without_block.items()}
    extrapolated = {name: _mean(row["extrapolated"].get(name) for row in rows) for name in first["extrapolated"]}
    throughput = {name: _mean((row.get("throughput") or {}).get(name) for row in rows)
                  for name in first.get("throughput") or {}}
    return dict(first) | {
        "name": first["training"]["entry"], "scores": scores, "seeds": count, "seed_range": ranges,
        "intervals": {name: [interval.low, interval.high] for name, interval in intervals.items()},
        "without_block": without_block, "throughput": throughput,
        "extrapolated": {name: value for name, value in extrapolated.items() if value is not None},
        "peak_memory_gib": _mean(row.get("peak_memory_gib") for row in rows),
        "unreadable": {name: reason for row in rows for name, reason in row["unreadable"].items()}}


def _mean(values: Any) -> float | None:
    """The mean; None if a value is missing."""
    values = list(values)
    return None if any(value is None for value in values) else statistics.fmean(values)


def _replicates(rows: Sequence[Row], name: str) -> list[list[float]]:
    """The scores of each row without a block; [] unless all rows have as many, of two blocks or more."""
    replicates = [(row.get("without_block") or {}).get(name, []) for row in rows]
    lengths = {len(values) for values in replicates}
    return replicates if len(lengths) == 1 and lengths.pop() > 1 else []


def table_rows(plan: Plan, trained: Rows, baselines: Sequence[Row]) -> list[Row]:
    """Entries by PSNR, the best first, those without one last; then baselines in the order of their measurement."""
    rows = [mean_row([seeds[seed] for seed in sorted(seeds)], num_seeds=len(plan["seeds"]))
            for seeds in trained.values() if seeds]
    entries = [row for row in rows if row["kind"] == "tokenizer"]
    entries.sort(key=lambda row: -(row["scores"].get(SORT_BY) or float("-inf")))
    others = [*baselines, *(row for row in rows if row["kind"] != "tokenizer")]
    return [*entries, *sorted(others, key=lambda row: row["order"])]


def sentences(plan: Plan, trained: Rows, score: str) -> list[str]:
    """What one score says: a sentence for each entry that is better than others by more than the spread.

    Entries without a base are compared with each other, variants with their base. Differences are the entry's score
    minus the other's, with the larger of the half-widths over seeds and over data.
    """
    rows = [row for seeds in trained.values() for row in seeds.values()]
    column, fields = score_columns(rows).get(score), {}
    for row in rows:
        fields |= row.get("columns") or {}
    if column is None or fields.get(score, {}).get("higher_is_better") is None:
        return []
    titles = {entry["name"]: entry["title"] for entry in plan["entries"]}
    sign = 1 if fields[score]["higher_is_better"] else -1
    beaten: dict[str, list[tuple[Difference, str]]] = {name: [] for name in titles}
    for name, reference in _pairs(plan, trained):
        difference = difference_beyond_spread(_seed_scores(trained[name], score),
                                              reference=_seed_scores(trained[reference], score))
        if difference is not None and sign * difference.mean > 0:
            beaten[name].append((difference, titles[reference]))
    lines, word = [], "higher" if sign > 0 else "lower"
    for name, others in sorted(beaten.items(), key=lambda item: -len(item[1])):  # most differences first
        if others:
            others.sort(key=lambda item: (abs(item[0].mean), item[1]))
            texts = [f"{title} ({_signed(difference, column)})" for difference, title in others]
            listed = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
            lines.append(f"{titles[name]} has a {word} {column.label} than {listed}.")
    return lines


def _pairs(plan: Plan, trained: Rows) -> list[tuple[str, str]]:
    """Ordered pairs of entries to compare: those without a base with each other, variants with their base."""
    entries = [entry for entry in plan["entries"]
               if any(row["kind"] == "tokenizer" for row in trained[entry["name"]].values())]
    names = {entry["name"] for entry in entries}
    pairs = [(one["name"], other["name"]) for one in entries for other in entries
             if one is not other and one["base"] is None and other["base"] is None]
    for entry in entries:
        if entry["base"] in names:
            pairs += [(entry["name"], entry["base"]), (entry["base"], entry["name"])]
    return pairs


def _seed_scores(rows: Mapping[int, Row], score: str) -> dict[int, SeedScore]:
    return {seed: SeedScore(row["scores"].get(score), tuple((row.get("without_block") or {}).get(score, ())))
            for seed, row in rows.items()}


def _signed(difference: Difference, column: Any) -> str:
    mean, half_width = (format(value * column.factor, column.format)
                        for value in (difference.mean, difference.half_width))
    return f"{'+' * (difference.mean > 0)}{mean} {PLUS_MINUS} {half_width}" + f" {column.unit}" * bool(column.unit)


def leaderboard_markdown(folder: Path, headings: Sequence[str] = ()) -> str:
    """The tables and sentences of a folder of results; with headings, only those columns.

    Without rows the text is "No results yet.".
    """
    if not (folder / PLAN).is_file():
        return NO_RESULTS
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    blocks = []
    for suite in plan["suites"]:
        trained, baselines = read_results(folder, plan, suite)
        done = sum(map(len, trained.values()))
        if not done:
            continue
        lines = [line for score in plan["compared"] for line in sentences(plan, trained, score)]
        planned = len(plan["entries"]) * len(plan["seeds"])
        blocks += [f"**{suite}**: {done} of {planned} trainings of at most {plan['flops']:.3g} FLOPs each, "
                   f"seeds {', '.join(map(str, plan['seeds']))}.",
                   markdown(table_rows(plan, trained, baselines), headings),
                   "Differences larger than the spread:" if lines else "No difference is larger than the spread."]
        blocks += ["\n".join(f"- {line}" for line in lines)] if lines else []
    return "\n\n".join(blocks) or NO_RESULTS
