"""Rows as a table, on the terminal and in Markdown.

    python benchmarks/table.py benchmarks/results/samples_video

prints a folder's table and puts it between the marks of benchmarks/README.md that name the folder.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")
FRONT = README.parents[1] / "README.md"  # which has a few columns
FRONT_HEADS = ("bits/pixel", "PSNR (dB)", "SSIM", "LPIPS (VGG)", "rFID", "rFVD", "codes used (%)")
Row = Mapping[str, Any]
COLUMNS = (  # where in a row, head, format, factor
    ("scores.bits_per_pixel", "bits/pixel", ".4f", 1), ("scores.bits_per_second", "kbit/s", ".1f", 1e-3),
    ("scores.psnr", "PSNR (dB)", ".2f", 1), ("scores.ssim", "SSIM", ".3f", 1), ("scores.ms_ssim", "MS-SSIM", ".3f", 1),
    ("scores.lpips_alex", "LPIPS (Alex)", ".3f", 1), ("scores.lpips_vgg", "LPIPS (VGG)", ".3f", 1),
    ("scores.rfid", "rFID", ".1f", 1), ("scores.kid", "KID", ".4f", 1), ("scores.rfvd", "rFVD", ".0f", 1),
    ("scores.kvd", "KVD", ".2f", 1), ("scores.codebook_usage", "codes used (%)", ".3g", 100),
    ("scores.codebook_perplexity", "perplexity", ".0f", 1), ("parameters", "parameters (M)", ".2f", 1e-6),
    ("throughput.encode_frames_per_second", "encode (frames/s)", ".0f", 1),
    ("throughput.decode_frames_per_second", "decode (frames/s)", ".0f", 1),
    ("peak_memory_gib", "memory (GiB)", ".2f", 1))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows in a folder, in the order of their run."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return sorted((row for row in rows if "protocol_hash" in row), key=lambda row: (row["kind"] == "anchor",
                                                                                   row["order"], row["name"]))


def _value(row: Row, place: str) -> float | None:
    value: Any = row
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return sum(value.values()) if isinstance(value, Mapping) else value


def cells_of(rows: Sequence[Row], heads: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text, of these columns or all, without those that no row has."""
    columns = [column for column in COLUMNS if (not heads or column[1] in heads)
               and any(_value(row, column[0]) is not None for row in rows)]
    return ["", *(head for _, head, _, _ in columns)], [
        [str(row["title"]) + "*" * bool(row.get("unreadable")), *(_cell(row, *column) for column in columns)]
        for row in rows]


def _cell(row: Row, place: str, head: str, form: str, factor: float) -> str:
    value, name = _value(row, place), place.rpartition(".")[2]
    if value is None:
        return "-"
    text = format(value * factor, form)
    if name in row.get("marks", {}):
        text += "\N{DAGGER}"
    if (beyond := row.get("extrapolated", {}).get(name)) is not None:
        text += f" (\N{INFINITY}: {format(beyond * factor, form)})"
    if name in row.get("intervals", {}):
        low, high = row["intervals"][name]
        text += f" \N{PLUS-MINUS SIGN} {format((high - low) / 2 * factor, form)}"
    return text


def footnotes(rows: Sequence[Row]) -> list[str]:
    """What must be known to read the table."""
    first = rows[0]
    protocol = first["protocol"]
    frames = f"{protocol['num_frames']} frames of " if protocol["num_frames"] > 1 else ""
    notes = [f"Protocol {first['protocol_hash']}: {protocol['dataset']}, {protocol['split']}, {first['num_samples']} "
             f"samples, {frames}{protocol['size']}x{protocol['size']}, {protocol['resize']}, {protocol['crop']} crop."]
    if any(row.get("intervals") for row in rows):
        notes.append(f"\N{PLUS-MINUS SIGN}: half of a 95 % interval, by leaving out one at a time of "
                     f"{first['num_blocks']} blocks of whole sources.")
    if any(row.get("extrapolated") for row in rows):
        notes.append("\N{INFINITY}: extrapolated to infinitely many samples from the same blocks (arXiv:1911.07023).")
    if any(row.get("marks") for row in rows):
        notes.append("\N{DAGGER} Fréchet distances of fewer than 2,000 samples depend on their number: compare within "
                     "this table only.")
    notes += [f"* {row['title']}: {len(row['unreadable'])} files were unreadable and left out: "
              f"{', '.join(row['unreadable'])}." for row in rows if row.get("unreadable")]
    notes += [f"{row['title']}: {note}." for row in rows for note in row.get("notes", ())]
    return notes + _other_rates(rows)


def _other_rates(rows: Sequence[Row]) -> list[str]:
    """What the untrained codecs reach at the rates of tokenizers that are not theirs."""
    notes = []
    codecs = [row for row in rows if row["kind"] == "anchor" and len(row.get("curve", ())) > 1]
    for row in rows:
        rate = row["scores"].get("bits_per_pixel")
        if row["kind"] != "tokenizer" or not rate or not codecs:
            continue
        if abs(rate / codecs[0]["scores"]["bits_per_pixel"] - 1) < 0.02:
            continue
        points = [(codec["title"], min(codec["curve"], key=lambda point: abs(point["bits_per_pixel"] - rate)))
                  for codec in codecs]
        notes.append(f"{row['title']} spends {rate:.4f} bits/pixel, where " + ", ".join(
            f"{title} has {point['psnr']:.2f} dB" for title, point in points if "psnr" in point) + ".")
    return notes


def markdown(rows: Sequence[Row], heads: Sequence[str] = ()) -> str:
    """The table, of these columns or all, and its footnotes."""
    header, cells = cells_of(rows, heads)
    lines = [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *cells)]
    return "\n".join([*lines, "", *(f"{note}  " for note in footnotes(rows))]).rstrip()


def print_table(rows: Sequence[Row]) -> None:
    """On the terminal, scores above costs."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(150, Console().width))
    header, cells = cells_of(rows)
    half = next((place for place, head in enumerate(header) if head == "codes used (%)"), len(header))
    half = next((place for place, head in enumerate(header) if head == "parameters (M)"), half) if half > 13 else half
    for chosen in (range(1, half), range(half, len(header))):
        table = Table("", *(header[place] for place in chosen), title=f"suite {rows[0]['suite']}")
        for row in cells:
            table.add_row(row[0], *(row[place].replace(" \N{PLUS-MINUS SIGN} ", "\n\N{PLUS-MINUS SIGN}")
                                    for place in chosen))
        if len(chosen):
            console.print(table)
    for note in footnotes(rows):
        console.print(note, markup=False, highlight=False)


def in_readme(text: str, suite: str, table: str) -> str:
    """The README's text with the table between the suite's marks.

    Raises:
        ValueError: If it has no such marks.
    """
    start, end = f"<!-- results/{suite} -->", f"<!-- end of results/{suite} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.S)
    if not pattern.search(text):
        raise ValueError(f"README.md has no marks {start} and {end} to put the table between.")
    return pattern.sub(lambda _: f"{start}\n{table}\n{end}", text)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    rows = read_rows(folder)
    if not rows:
        sys.exit(f"error: {folder} has no rows; run benchmarks/run.py first.")
    print_table(rows)
    README.write_text(in_readme(README.read_text(), folder.name, markdown(rows)))
    if folder.name in FRONT.read_text():
        FRONT.write_text(in_readme(FRONT.read_text(), folder.name, markdown(rows, FRONT_HEADS)))


if __name__ == "__main__":
    main()
