"""One self-contained page from benchmark results: tables, rate-distortion plots, videos in step, codebooks.

    python benchmarks/report.py benchmarks/results/samples_video.json --output work_dirs/report.html

The page needs no network and no server. Texts of results are escaped and never become markup; the page's own policy
lets no other script run. The parts in ``report/`` are put inline, and so are the videos.
``tests/benchmarks/browser.py`` takes a picture of it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
PARTS = Path(__file__).with_name("report")
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A score in a table: its key, its head, decimals, which way is better (1 up, -1 down, 0 neither), its unit."""

    key: str
    label: str
    decimals: int
    better: int
    unit: str = ""
    factor: float = 1.0


QUALITY = (
    Column("bits_per_pixel", "bits/pixel", 4, -1), Column("psnr", "PSNR", 2, 1, "dB"), Column("ssim", "SSIM", 4, 1),
    Column("ms_ssim", "MS-SSIM", 4, 1), Column("lpips_alex", "LPIPS Alex", 4, -1),
    Column("lpips_vgg", "LPIPS VGG", 4, -1), Column("rfid", "rFID", 2, -1), Column("kid", "KID", 4, -1),
    Column("rfvd", "rFVD", 1, -1), Column("kvd", "KVD", 2, -1))
COST = (
    Column("bits_per_second", "bits/s", 0, -1), Column("codebook_usage", "codebook used", 2, 1, "%", 100),
    Column("codebook_perplexity", "perplexity", 1, 1),
    Column("encoder", "encoder", 2, 0, "M param.", 1e-6), Column("quantizer", "quantizer", 2, 0, "M param.", 1e-6),
    Column("decoder", "decoder", 2, 0, "M param.", 1e-6),
    Column("encode_frames_per_second", "encode", 1, 1, "frames/s"),
    Column("decode_frames_per_second", "decode", 1, 1, "frames/s"),
    Column("peak_memory_gib", "peak memory", 2, -1, "GiB"))
PLOTS = ({"name": "psnr", "label": "PSNR", "unit": " dB", "better": 1},
         {"name": "ssim", "label": "SSIM", "unit": "", "better": 1},
         {"name": "lpips_alex", "label": "LPIPS (Alex)", "unit": "", "better": -1})
NOTES = {"few samples": "fewer than 2,000 samples: depends on their number"}


def write_report(results: Sequence[Result], path: str | Path, *, title: str = "Visual tokenizers compared") -> None:
    """Write the page.

    Args:
        results: Rows as ``benchmarks/run.py`` writes them; whatever a row lacks is a dash. Their videos' paths are
            relative to ``path``'s folder, and one that is missing or no video is named in its place on the page.
        path: Of the page; its folder is made.
        title: The page's heading.

    Raises:
        ValueError: If there are no results.
    """
    if not results:
        raise ValueError("write_report needs at least one result, got an empty list; run a benchmark first.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = sorted(results, key=lambda row: row.get("kind") == "anchor")  # stable: tokenizers first
    style, script = (_part(*names) for names in (("page.css",), ("page.js", "plots.js", "viewer.js")))
    parts = {
        "title": html.escape(title), "style": style, "script": script,
        "style_hash": _policy(style), "script_hash": _policy(script),
        "header": _header(rows), "tables": _tables(rows), "made": _made(rows),
        "data": _json(_data(rows, path.parent)),
    }
    template = (PARTS / "page.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)  # once: texts may look like places
    path.write_text(page, encoding="utf-8", newline="\n")


def _part(*names: str) -> str:
    return "\n".join((PARTS / name).read_text(encoding="utf-8") for name in names)


def _policy(text: str) -> str:
    """How the page's Content-Security-Policy admits an inline part: by its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(data: Any) -> str:
    """For a script element: without a "<", nothing in a text can end it."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


# --- values


def _number(value: Any) -> float | None:
    """A number that can be shown, an infinite one too, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return value


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in values.items() if _number(value) is not None and math.isfinite(value)}


def _interval(row: Result, key: str) -> list[float] | None:
    found = (row.get("intervals") or {}).get(key)
    return list(found) if found and len(found) == 2 and len(_finite(dict(enumerate(found)))) == 2 else None


def _values(row: Result) -> dict[str, Any]:
    """What the tables show of a row, in one level."""
    values = {"peak_memory_gib": row.get("peak_memory_gib")}
    for group in ("parameters", "throughput", "scores"):
        values |= row.get(group) or {}
    return values


def _title(row: Result) -> str:
    return str(row.get("title") or row.get("name") or "unnamed")


def _text(value: Any) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)


def _decimal(value: float, column: Column) -> str:
    value *= column.factor
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:,.{column.decimals}f}"
    if value and not float(text.replace(",", "")):
        text = f"{value:.2g}"  # small, but not nothing
    return text.replace("-", MINUS)


# --- header and footer


def _header(rows: Sequence[Result]) -> str:
    keys = ("suite", "num_samples", "protocol_hash")
    suite, number, code = (html.escape(", ".join(_distinct(row.get(key) for row in rows)) or DASH) for key in keys)
    lines = [f'<p class="quiet">Suite {suite} · {number} samples · protocol <code>{code}</code></p>']
    hashes = _distinct(row.get("protocol_hash") for row in rows)
    if len(hashes) > 1:
        lines.append('<p class="warning">These rows were measured under different protocols: compare only rows with '
                     'the same protocol hash.</p>')
    return "\n".join([*lines, _fields(row.get("protocol") for row in rows)])


def _made(rows: Sequence[Result]) -> str:
    parts = [("Hardware", "hardware"), ("Versions", "versions"), ("Weights and data", "assets")]
    return "\n".join(f"<details><summary>{label}</summary>{fields}</details>" for label, key in parts
                     if (fields := _fields(row.get(key) for row in rows))) or '<p class="quiet">Not recorded.</p>'


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(_text(value) for value in values if value is not None))


def _fields(tables: Iterable[Any]) -> str:
    """Every field of some dicts; where they differ, all its values."""
    found: dict[str, list[Any]] = {}
    for table in tables:
        for key, value in _flat(table or {}):
            found.setdefault(key, []).append(value)
    entries = [f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(' | '.join(_distinct(values)) or DASH)}</dd></div>"
               for key, values in found.items()]
    return f"<dl>{''.join(entries)}</dl>" if entries else ""


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --- tables


def _tables(rows: Sequence[Result]) -> str:
    notes: dict[str, str] = {}  # text -> its letter
    tables = [_table(rows, columns, notes) for columns in (QUALITY, COST)]
    if any(row.get("intervals") for row in rows):
        notes["Small figures under a score are its interval, by the protocol above."] = ""
    if any(row.get("extrapolated") for row in rows):
        notes["N→∞: extrapolated to infinitely many samples."] = ""
    items = "".join(f'<li id="note-{letter}"><sup>{letter}</sup> {html.escape(text)}</li>' if letter else
                    f"<li>{html.escape(text)}</li>" for text, letter in notes.items())
    return "\n".join(filter(None, tables)) + (f'<ul class="notes">{items}</ul>' if items else "")


def _table(rows: Sequence[Result], columns: Sequence[Column], notes: dict[str, str]) -> str:
    columns = [column for column in columns if any(_number(_values(row).get(column.key)) is not None for row in rows)]
    if not columns:
        return ""
    several = len(_distinct(row.get("protocol_hash") for row in rows)) > 1
    heads = ['<th scope="col" data-first="ascending" data-text="1"><button type="button">variant</button></th>']
    heads += [_head(column) for column in columns]
    best = {column.key: _best(rows, column) for column in columns}
    lines = []
    for index, row in enumerate(rows):
        if all(_number(_values(row).get(column.key)) is None for column in columns) and columns[0] in COST:
            continue  # an anchor has no codebook and no network
        title, kind = html.escape(_title(row), quote=True), "anchor" if row.get("kind") == "anchor" else "tokenizer"
        under = f"<br><code>{html.escape(_text(row.get('protocol_hash'))[:12])}</code>" if several else ""
        cells = [f'<th scope="row" data-value="{title}"><span class="key"></span>{title}{under}</th>']
        cells += [_cell(row, column, index in best[column.key], notes) for column in columns]
        lines.append(f'<tr class="{kind}" data-row="{index}">{"".join(cells)}</tr>')
    return (f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead>\n<tbody>'
            + "\n".join(lines) + "</tbody></table></div>")


def _head(column: Column) -> str:
    arrow = {1: " ↑", -1: " ↓", 0: ""}[column.better]
    unit = f"<br>{column.unit}" if column.unit else ""
    first = "descending" if column.better > 0 else "ascending"
    return (f'<th scope="col" data-key="{column.key}" data-first="{first}"><button type="button">'
            f"{column.label}{arrow}{unit}</button></th>")


def _cell(row: Result, column: Column, best: bool, notes: dict[str, str]) -> str:
    value = _number(_values(row).get(column.key))
    if value is None:
        return f'<td data-value="">{DASH}</td>'
    text, small = _decimal(value, column), ""
    if mark := (row.get("marks") or {}).get(column.key):
        letter = notes.setdefault(NOTES.get(str(mark), str(mark)), chr(ord("a") + len(notes) % 26))
        text += f'<sup><a href="#note-{letter}">{letter}</a></sup>'
    if interval := _interval(row, column.key):
        small += f"<small>{DASH.join(_decimal(end, column) for end in interval)}</small>"
    if (beyond := _number((row.get("extrapolated") or {}).get(column.key))) is not None:
        small += f"<small>N→∞ {_decimal(beyond, column)}</small>"
    order = repr(value).replace("inf", "Infinity")  # as JavaScript spells it
    return f'<td data-value="{order}"{" class=best" if best else ""}>{text}{small}</td>'


def _best(rows: Sequence[Result], column: Column) -> set[int]:
    """The best tokenizers of each protocol, as far as the decimals shown tell; none where all are alike."""
    groups: dict[str, list[tuple[int, float]]] = {}
    for index, row in enumerate(rows):
        value = _number(_values(row).get(column.key))
        if column.better and value is not None and row.get("kind") != "anchor":
            groups.setdefault(_text(row.get("protocol_hash")), []).append((index, value))
    found = set()
    for group in groups.values():
        shown = {index: _decimal(value, column) for index, value in group}
        if len(set(shown.values())) > 1:
            winner = max(group, key=lambda pair: column.better * pair[1])[0]
            found |= {index for index, text in shown.items() if text == shown[winner]}
    return found


# --- what the page's JavaScript draws


def _data(rows: Sequence[Result], folder: Path) -> dict[str, Any]:
    books = [_codebook(index, row) for index, row in enumerate(rows) if (row.get("codebook") or {}).get("histogram")]
    clips = _clips(rows)
    paths = dict.fromkeys(cell["path"] for clip in clips for cell in clip["cells"])
    low = min((book["even"] for book in books), default=1)
    high = max((book["points"][0][1] for book in books), default=1)
    ranges = [max([2, *(book["size"] for book in books)]), [0.7 * min(low, 1), 1.5 * max(high, 1)]]
    return {
        "rows": _plotted(rows), "plots": PLOTS, "codebooks": books, "clips": clips, "histogram": ranges,
        "media": {path: _media(folder, path) for path in paths},
    }


def _plotted(rows: Sequence[Result]) -> list[dict[str, Any]]:
    """A row is a line where it has a curve, a level where it has no rate, and else a point."""
    plotted, counts = [], {"anchor": 0, "tokenizer": 0}
    for index, row in enumerate(rows):
        scores, kind = _finite(row.get("scores") or {}), "anchor" if row.get("kind") == "anchor" else "tokenizer"
        curve = [_finite(point) for point in row.get("curve") or []]
        rated = scores.get("bits_per_pixel", 0) > 0 and row.get("name") != "bypass"
        plotted.append({
            "index": index, "title": _title(row), "kind": kind, "order": counts[kind], "scores": scores,
            "intervals": {key: found for key in scores if (found := _interval(row, key))}, "curve": curve,
            "form": "line" if len(curve) > 1 else "point" if rated else "level"})
        counts[kind] += 1
    return plotted


def _codebook(index: int, row: Result) -> dict[str, Any]:
    """Its histogram at up to 160 ranks; its entropy in bits, by the scores where they have it."""
    book, scores = row["codebook"], _finite(row.get("scores") or {})
    counts = sorted((count for count in book["histogram"] if count > 0), reverse=True) or [0]
    total, many = int(book.get("num_indices") or sum(counts)), int(book.get("num_codebooks") or 1)
    size = max(int(book.get("size") or 0), 1)
    entries = size * many  # of all codebooks in one histogram
    reach = max(1, min(entries, total))
    ranks = sorted({min(len(counts), round(len(counts) ** (n / 159))) for n in range(160)})
    entropy = -sum(count / total * math.log2(count / total) for count in counts if count) if total else 0.0
    # A histogram may be cut off after its most used entries; the score is of all.
    used = round(scores["codebook_usage"] * size * many) if "codebook_usage" in scores else sum(map(bool, counts))
    return {
        "row": index, "size": entries, "num_codebooks": many, "used": used, "reach": reach,
        "even": max(1.0, total / entries), "points": [[rank, counts[rank - 1]] for rank in ranks],
        "entropy": scores["codebook_entropy"] / math.log(2) if "codebook_entropy" in scores else abs(entropy),
        "bound": scores.get("codebook_entropy_bound", math.log(reach)) / math.log(2),
        "digits": [_digits(found, book) for found in book.get("digit_entropies") or [] if len(found) > 1],
    }


def _digits(entropies: Sequence[float], book: Mapping[str, Any]) -> list[list[float]]:
    """Of each digit its entropy (given in nats) and the most it could be, in bits."""
    sizes = book.get("digits") or [book.get("size", 1) ** (1 / len(entropies))] * len(entropies)
    bounds = [max(math.log(max(size, 1)), entropy, 1e-9) for size, entropy in zip(sizes, entropies, strict=True)]
    return [[entropy / math.log(2), bound / math.log(2)] for entropy, bound in zip(entropies, bounds, strict=True)]


# --- videos


def _clips(rows: Sequence[Result]) -> list[dict[str, Any]]:
    clips = []
    for n in range(max(len(row.get("videos") or []) for row in rows)):
        originals = dict.fromkeys(
            str(row["original_videos"][n]) for row in rows if len(row.get("original_videos") or []) > n)
        cells = [{"path": path, "title": "Original", "caption": ""} for path in originals]
        cells += [{"path": str(row["videos"][n]), "title": _title(row), "caption": _caption(row)}
                  for row in rows if len(row.get("videos") or []) > n]
        clips.append({"title": f"Clip {n + 1}", "cells": cells})
    return clips


def _caption(row: Result) -> str:
    scores = row.get("scores") or {}
    shown = [(column, value) for column in (QUALITY[1], QUALITY[0])
             if (value := _number(scores.get(column.key))) is not None]
    return " · ".join(f"{column.label} {_decimal(value, column)} dB" if column.unit else
                      f"{_decimal(value, column)} {column.label}" for column, value in shown)


def _media(folder: Path, name: str) -> dict[str, Any]:
    """A video as a data URI with its frame rate and size, or what is wrong with it."""
    import av

    try:
        file = (folder / name).resolve()
        found = file.is_file()
    except (OSError, ValueError) as error:  # too long, or with a zero byte
        return {"problem": f"{name}: {error}"}
    kind = {".mp4": "mp4", ".webm": "webm"}.get(file.suffix.lower())
    if not file.is_relative_to(folder.resolve()):
        return {"problem": f"{name} is outside the report's folder"}
    if not found:
        return {"problem": f"{name} is missing"}
    try:  # its kind is given: a text that names other files is not followed
        with av.open(str(file), format=kind or "mp4") as container:
            stream = container.streams.video[0]
            frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
            size = {"width": stream.width, "height": stream.height}
            fps = float(stream.average_rate or stream.guessed_rate)
    except (av.FFmpegError, IndexError, TypeError) as error:
        return {"problem": f"{name} is no video: {error}"}
    data = base64.b64encode(file.read_bytes()).decode()
    return {"src": f"data:video/{kind or 'mp4'};base64,{data}", "fps": fps, "frames": frames, **size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="JSON files, each of one row or a list of rows")
    parser.add_argument("--output", type=Path, help="default: report.html beside the first; videos are relative to it")
    arguments = parser.parse_args()
    found = [json.loads(file.read_text(encoding="utf-8")) for file in arguments.results]
    rows = [row for rows in found for row in (rows if isinstance(rows, list) else [rows])]
    output = arguments.output or arguments.results[0].with_name("report.html")
    write_report(rows, output)
    print(output)


if __name__ == "__main__":
    main()
