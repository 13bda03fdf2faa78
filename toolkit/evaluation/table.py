"""Rows as a table, on the terminal and in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from toolkit.contracts import Column
from toolkit.evaluation.results import Row, read_rows
from toolkit.metrics.columns import heading, registered_columns

RATES = ("bits_per_pixel", "bits_per_second")
COSTS = {"parameters": Column("parameters", ".2f", factor=1e-6, unit="M"),
         "training_flops": Column("training", ".3g", factor=1e-15, unit="PFLOP"),
         "encode_frames_per_second": Column("encode", ".0f", unit="frames/s"),
         "decode_frames_per_second": Column("decode", ".0f", unit="frames/s"),
         "peak_memory_gib": Column("memory", ".2f", unit="GiB")}
PLUS_MINUS, DAGGER, INFINITY = "\N{PLUS-MINUS SIGN}", "\N{DAGGER}", "\N{INFINITY}"


def rows_of_folder(folder: Path) -> list[dict[str, Any]]:
    """The rows in a folder in the order of their run, baselines last."""
    rows = [row for path in sorted(folder.glob("*.json")) for row in read_rows(path) if "protocol_hash" in row]
    return sorted(rows, key=lambda row: (row["kind"] == "baseline", row["order"], row["name"]))


def score_columns(rows: Sequence[Row]) -> dict[str, Column]:
    """Score name -> its column, stored in a row or else declared by a registered metric. Rates come first."""
    stored = {name: _column(fields) for row in rows for name, fields in (row.get("columns") or {}).items()}
    declared = registered_columns() | stored
    names = dict.fromkeys([*RATES, *(name for row in rows for name in row.get("scores") or {})])
    return {name: declared[name] for name in names if name in declared}


def _column(fields: Mapping[str, Any]) -> Column:
    """A stored column; a format other than a number format is replaced by ".4g"."""
    plain = re.fullmatch(r"\.\d{1,2}[efg]", str(fields["format"]))
    return Column(str(fields["label"]), fields["format"] if plain else ".4g", float(fields["factor"]),
                  str(fields["unit"]))


def values_of(row: Row) -> dict[str, float]:
    """The scores, costs, training FLOPs and parameter counts of a row, without None and NaN."""
    parameters = row.get("parameters") or {}
    values = {"peak_memory_gib": row.get("peak_memory_gib"),
              "training_flops": (row.get("training") or {}).get("flops"), **parameters, **(row.get("throughput") or {}),
              **(row.get("scores") or {})}
    if parameters:
        values["parameters"] = sum(parameters.values())
    return {name: value for name, value in values.items() if value is not None and not math.isnan(value)}


def cells_of(rows: Sequence[Row], headings: Collection[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Header and cells as text. Columns: those with a value in some row and, if given, with one of the headings.

    Rows of several seeds add a column with their number.
    """
    values_by_row = [values_of(row) for row in rows]
    columns = {name: column for name, column in (score_columns(rows) | COSTS).items()
               if (not headings or heading(column) in headings) and any(name in values for values in values_by_row)}
    with_seeds = any("seeds" in row for row in rows)
    return ["", *["seeds"] * with_seeds, *map(heading, columns.values())], [
        [str(row["title"]) + "*" * bool(row.get("unreadable")), *[str(row.get("seeds", "-"))] * with_seeds,
         *(_cell(row, name, values.get(name), column) for name, column in columns.items())]
        for row, values in zip(rows, values_by_row, strict=True)]


def _cell(row: Row, name: str, value: float | None, column: Column) -> str:
    if value is None:
        return "-"
    text = format(value * column.factor, column.format)
    if name in row.get("marks", {}):
        text += DAGGER
    if (extrapolated := row.get("extrapolated", {}).get(name)) is not None:
        text += f" ({INFINITY}: {format(extrapolated * column.factor, column.format)})"
    if name in row.get("intervals", {}):
        low, high = row["intervals"][name]
        text += f" {PLUS_MINUS} {format((high - low) / 2 * column.factor, column.format)}"
    if name in row.get("seed_range", {}):
        low, high = (format(end * column.factor, column.format) for end in row["seed_range"][name])
        text += f" ({low} to {high})" if low != high else ""
    return text


def footnotes(rows: Sequence[Row]) -> list[str]:
    """The protocol, and explanations of the marks in the table."""
    first = rows[0]
    protocol = first["protocol"]
    frames = f"{protocol['num_frames']} frames of " if protocol["num_frames"] > 1 else ""
    notes = [f"Protocol {first['protocol_hash']}: {protocol['dataset']}, {protocol['split']}, {first['num_samples']} "
             f"samples, {frames}{protocol['size']}x{protocol['size']}, {protocol['resize']}, {protocol['crop']} crop."]
    if any(row.get("intervals") for row in rows):
        notes.append(f"{PLUS_MINUS}: half-width of a 95 % jackknife interval over {first['num_blocks']} blocks of "
                     "whole files.")
    if any(row.get("seed_range") for row in rows):
        notes.append("Scores of several seeds are means; in parentheses: the lowest and the highest of the seeds.")
    if any(row.get("extrapolated") for row in rows):
        notes.append(f"{INFINITY}: extrapolated to infinitely many samples from the same blocks (arXiv:1911.07023).")
    if any(row.get("marks") for row in rows):
        notes.append(f"{DAGGER} Fréchet distances of fewer than 2,000 clips or images depend on their number: compare "
                     "within this table only.")
    notes += [f"* {row['title']}: {len(row['unreadable'])} unreadable files were skipped: "
              f"{', '.join(row['unreadable'])}." for row in rows if row.get("unreadable")]
    notes += [f"{row['title']}: {note}." for row in rows for note in row.get("notes", ())]
    return notes + _other_rates(rows)


def _other_rates(rows: Sequence[Row]) -> list[str]:
    """For each tokenizer 2 % or more off the baselines' rate: each baseline's PSNR at its point nearest in rate."""
    notes = []
    codecs = [row for row in rows if row["kind"] == "baseline" and len(row.get("curve", ())) > 1
              and all(point.get("psnr") is not None for point in row["curve"])]
    for row in rows if codecs else ():
        rate = row["scores"].get("bits_per_pixel")
        if row["kind"] == "tokenizer" and rate and abs(rate / codecs[0]["scores"]["bits_per_pixel"] - 1) >= 0.02:
            nearest = [(codec["title"], min(codec["curve"], key=lambda point: abs(point["bits_per_pixel"] - rate)))
                       for codec in codecs]
            notes.append(f"PSNR at the rate of {row['title']}, {rate:.4f} bits/pixel: " + ", ".join(
                f"{title} {point['psnr']:.2f} dB" for title, point in nearest) + ".")
    return notes


def markdown(rows: Sequence[Row], headings: Sequence[str] = ()) -> str:
    """The table and its footnotes; with headings, only those columns."""
    header, cells = cells_of(rows, headings)
    lines = [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *cells)]
    return "\n".join([*lines, "", *(f"{note}  " for note in footnotes(rows))]).rstrip()


def terminal_tables(rows: Sequence[Row]) -> Group:
    """Two tables for rich's console (quality; codebook use and costs), and the footnotes."""
    columns, tables = score_columns(rows) | COSTS, []
    costs = {heading(columns[name]) for name in columns if name in COSTS or name.startswith("codebook")}
    for headings in (set(map(heading, columns.values())) - costs, costs):
        header, cells = cells_of(rows, headings)
        tables.append(Table(*header, title=f"suite {rows[0]['suite']}"))
        for title, *texts in cells:
            tables[-1].add_row(title, *(text.replace(f" {PLUS_MINUS} ", f"\n{PLUS_MINUS}") for text in texts))
    return Group(*tables, *map(Text, footnotes(rows)))


def insert_table(text: str, suite: str, table: str) -> str:
    """The text of a README with the table inserted between the markers of the suite."""
    start, end = f"<!-- results/{suite} -->", f"<!-- end of results/{suite} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.S)
    if not pattern.search(text):
        raise ValueError(f"the README has no markers {start} and {end}; add them where the table belongs.")
    return pattern.sub(lambda _: f"{start}\n{table}\n{end}", text)
