"""One self-contained page from benchmark results: tables, rate-distortion plots, synchronized videos, codebooks.

The page needs no network and no server. Text of results is escaped. The page's Content-Security-Policy allows only its
own script and style. The files in ``page/`` and the videos are embedded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.contracts import Column
from toolkit.evaluation.results import Row
from toolkit.evaluation.table import COSTS, score_columns, values_of
from toolkit.metrics.columns import registered_directions

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
PAGE = Path(__file__).with_name("page")
PLOTS = ("psnr", "ssim", "lpips_alex")
PARAMETERS = {name: Column(name, ".2f", factor=1e-6, unit="M param.") for name in ("encoder", "quantizer", "decoder")}
HIGHER_IS_BETTER = {"bits_per_pixel": False, "bits_per_second": False, "peak_memory_gib": False,
                    "encode_frames_per_second": True, "decode_frames_per_second": True}
NOTES = {"few samples": "fewer than 2,000 clips or images: depends on their number"}
DICT_KEYS = ("columns", "scores", "intervals", "extrapolated", "marks", "protocol", "hardware", "versions", "assets")
LIST_KEYS = ("curve", "videos", "original_videos")  # a row may lack DICT_KEYS and LIST_KEYS: empty by default
Columns = dict[str, tuple[Column, bool | None]]  # key in a row's values -> (column, whether higher is better)


def page_columns(rows: Sequence[Row]) -> tuple[Columns, Columns]:
    """The columns of the two tables: quality, and codebook use with costs."""
    stored = {name: fields.get("higher_is_better") for row in rows for name, fields in row["columns"].items()}
    directions = registered_directions() | stored | HIGHER_IS_BETTER
    scores = {name: (column, directions.get(name)) for name, column in score_columns(rows).items()}
    quality = {name: column for name, column in scores.items()
               if name != "bits_per_second" and not name.startswith("codebook")}
    costs = {name: (column, HIGHER_IS_BETTER.get(name))
             for name, column in (PARAMETERS | COSTS).items() if name != "parameters"}
    return quality, {name: column for name, column in scores.items() if name not in quality} | costs


def write_report(rows: Sequence[Row], path: str | Path, *, title: str = "Visual tokenizers compared") -> None:
    """Write the page; the paths of videos in the rows are relative to its folder."""
    if not rows:
        raise ValueError("write_report needs at least one result, got an empty list; run a benchmark first.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = sorted(map(_complete, rows), key=lambda row: row["kind"] == "baseline")  # stable: tokenizers first
    template, style, *scripts = ((PAGE / name).read_text(encoding="utf-8")
                                 for name in ("page.html", "page.css", "page.js", "plots.js", "viewer.js"))
    script, columns = "\n".join(scripts), page_columns(rows)
    data = json.dumps(_data(rows, columns[0], path.parent), allow_nan=False)
    texts = {
        "title": html.escape(title), "style": style, "script": script,
        "style_hash": _csp_hash(style), "script_hash": _csp_hash(script),
        "header": _header(rows), "tables": _tables(rows, *columns), "provenance": _provenance(rows),
        "data": data.replace("<", "\\u003c"),  # "</script>" in a text would end the element
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], template)  # one pass: texts may contain braces
    path.write_text(page, encoding="utf-8", newline="\n")


def _complete(row: Row) -> dict[str, Any]:
    """A row without None, with DICT_KEYS, LIST_KEYS, ``values`` (:func:`values_of`) and ``finite`` (finite scores)."""
    row = {key: value for key, value in row.items() if value is not None}
    row = {key: {} for key in DICT_KEYS} | {key: [] for key in LIST_KEYS} | row
    return row | {"title": str(row.get("title") or row.get("name") or "unnamed"), "values": values_of(row),
                  "kind": "baseline" if row.get("kind") == "baseline" else "tokenizer",
                  "finite": _finite(row["scores"])}


def _csp_hash(text: str) -> str:
    """The hash source of a Content-Security-Policy that allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None and math.isfinite(value)}


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
    text = format(value, column.format)
    if value and not float(text):
        text = f"{value:.2g}"  # small, but not zero
    return text.replace("-", MINUS)


def _header(rows: Sequence[Row]) -> str:
    keys = ("suite", "num_samples", "protocol_hash")
    suites, counts, hashes = (_distinct(row.get(key) for row in rows) for key in keys)
    suite, num_samples, protocol_hash = (html.escape(", ".join(texts) or DASH) for texts in (suites, counts, hashes))
    lines = [f'<p class="quiet">Suite {suite} · {num_samples} samples · protocol <code>{protocol_hash}</code></p>']
    if len(hashes) > 1:
        lines.append('<p class="warning">These rows were measured under different protocols: compare only rows with '
                     'the same protocol hash.</p>')
    return "\n".join([*lines, _fields(row["protocol"] for row in rows)])


def _provenance(rows: Sequence[Row]) -> str:
    sections = [("Hardware", "hardware"), ("Versions", "versions"), ("Weights and data", "assets")]
    return "\n".join(f"<details><summary>{label}</summary>{fields}</details>" for label, key in sections
                     if (fields := _fields(row[key] for row in rows))) or '<p class="quiet">Not recorded.</p>'


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(_text(value) for value in values if value is not None))


def _fields(mappings: Iterable[Any]) -> str:
    """HTML list of the fields of several dicts; each field with its distinct values."""
    fields: dict[str, list[Any]] = {}
    for mapping in mappings:
        for key, value in _flat(mapping):
            fields.setdefault(key, []).append(value)
    items = [f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(' | '.join(_distinct(values)) or DASH)}</dd></div>"
             for key, values in fields.items()]
    return f"<dl>{''.join(items)}</dl>" if items else ""


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _tables(rows: Sequence[Row], quality: Columns, costs: Columns) -> str:
    notes: dict[str, str] = {}  # text -> its letter, or "" without one; cells add theirs
    tables = [_table(rows, quality, notes), _table(rows, costs, notes, skip_empty=True)]
    if any(row["intervals"] for row in rows):
        notes["Small numbers under a score are its 95 % interval."] = ""
    if any(row["extrapolated"] for row in rows):
        notes["N→∞: extrapolated to infinitely many samples."] = ""
    items = "".join(f'<li id="note-{letter}"><sup>{letter}</sup> {html.escape(text)}</li>' if letter else
                    f"<li>{html.escape(text)}</li>" for text, letter in notes.items())
    return "\n".join(filter(None, tables)) + (f'<ul class="notes">{items}</ul>' if items else "")


def _table(rows: Sequence[Row], columns: Columns, notes: dict[str, str], *, skip_empty: bool = False) -> str:
    columns = {key: column for key, column in columns.items() if any(key in row["values"] for row in rows)}
    if not columns:
        return ""
    several_protocols = len(_distinct(row.get("protocol_hash") for row in rows)) > 1
    header = ['<th scope="col" data-first="ascending" data-text="1"><button type="button">variant</button></th>']
    header += [_head(key, *column) for key, column in columns.items()]
    best = {key: _best(rows, key, *column) for key, column in columns.items()}
    lines = []
    for index, row in enumerate(rows):
        if skip_empty and not columns.keys() & row["values"].keys():
            continue  # a row without any of these values
        title = html.escape(row["title"], quote=True)
        protocol = f"<br><code>{html.escape(_text(row.get('protocol_hash'))[:12])}</code>" if several_protocols else ""
        cells = [f'<th scope="row" data-value="{title}"><span class="key"></span>{title}{protocol}</th>']
        cells += [_cell(row, key, column, index in best[key], notes) for key, (column, _) in columns.items()]
        lines.append(f'<tr class="{row["kind"]}" data-row="{index}">{"".join(cells)}</tr>')
    return (f'<div class="scroll"><table><thead><tr>{"".join(header)}</tr></thead>\n<tbody>'
            + "\n".join(lines) + "</tbody></table></div>")


def _head(key: str, column: Column, higher_is_better: bool | None) -> str:
    arrow = {True: " ↑", False: " ↓", None: ""}[higher_is_better]
    unit = f"<br>{html.escape(column.unit)}" if column.unit else ""
    first = "descending" if higher_is_better else "ascending"
    return (f'<th scope="col" data-key="{html.escape(key)}" data-first="{first}"><button type="button">'
            f"{html.escape(column.label)}{arrow}{unit}</button></th>")


def _cell(row: Row, key: str, column: Column, best: bool, notes: dict[str, str]) -> str:
    value = row["values"].get(key)
    if value is None:
        return f'<td data-value="">{DASH}</td>'
    text, small = _decimal(value, column), ""
    if mark := row["marks"].get(key):
        letter = notes.setdefault(NOTES.get(str(mark), str(mark)), chr(ord("a") + len(notes) % 26))
        text += f'<sup><a href="#note-{letter}">{letter}</a></sup>'
    if interval := row["intervals"].get(key):
        small += f"<small>{DASH.join(_decimal(end, column) for end in interval)}</small>"
    if (extrapolated := row["extrapolated"].get(key)) is not None:
        small += f"<small>N→∞ {_decimal(extrapolated, column)}</small>"
    sort_value = repr(value).replace("inf", "Infinity")  # as JavaScript spells it
    return f'<td data-value="{sort_value}"{" class=best" if best else ""}>{text}{small}</td>'


def _best(rows: Sequence[Row], key: str, column: Column, higher_is_better: bool | None) -> set[int]:
    """Indices of each protocol's best tokenizers. Equal texts are ties; if all values tie, none is best."""
    groups: dict[str, dict[int, float]] = {}
    for index, row in enumerate(rows):
        if higher_is_better is not None and key in row["values"] and row["kind"] == "tokenizer":
            groups.setdefault(_text(row.get("protocol_hash")), {})[index] = row["values"][key]
    best = set()
    for group in groups.values():
        texts = {index: _decimal(value, column) for index, value in group.items()}
        if len(set(texts.values())) > 1:
            winner = (max if higher_is_better else min)(group, key=group.get)
            best |= {index for index, text in texts.items() if text == texts[winner]}
    return best


def _data(rows: Sequence[Row], columns: Columns, folder: Path) -> dict[str, Any]:
    """What the page's JavaScript draws; ``columns`` are those of quality."""
    books = [_codebook(index, row) for index, row in enumerate(rows) if row.get("codebook", {}).get("histogram")]
    clips = _clips(rows, columns)
    high = max((book["points"][0][1] for book in books), default=1)
    plots = [(name, *columns[name]) for name in PLOTS if name in columns]
    return {
        "rows": _plotted(rows),
        "plots": [{"name": name, "label": column.label, "better": 1 if higher else -1,
                   "unit": f" {column.unit}" if column.unit else ""} for name, column, higher in plots],
        "codebooks": books, "clips": clips,
        "histogram": [max([2, *(book["entries"] for book in books)]), [0.7, 1.5 * high]],  # limits of rank, of count
        "media": {cell["path"]: _media(folder, cell["path"]) for clip in clips for cell in clip["cells"]},
    }


def _plotted(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows for the plots: "line" with a curve, else "point" with a rate, else "level" (a horizontal line)."""
    plotted = []
    for index, row in enumerate(rows):
        scores, kind, curve = row["finite"], row["kind"], [_finite(point) for point in row["curve"]]
        order, has_rate = sum(other["kind"] == kind for other in plotted), scores.get("bits_per_pixel", 0) > 0
        plotted.append({
            "index": index, "title": row["title"], "kind": kind, "order": order, "scores": scores,
            "intervals": {key: list(row["intervals"][key]) for key in scores if key in row["intervals"]},
            "curve": curve, "form": "line" if len(curve) > 1 else "point" if has_rate else "level"})
    return plotted


def _codebook(index: int, row: Row) -> dict[str, Any]:
    """Histogram at up to 160 ranks, usage, and entropies in bits."""
    book, scores = {"num_codebooks": 1, "digit_entropies": []} | row["codebook"], row["finite"]
    counts = [count for count in book["histogram"] if count]
    total, entries = book.get("num_indices", sum(counts)), book["size"] * book["num_codebooks"]  # of all codebooks
    max_used = min(entries, total)
    ranks = sorted({min(len(counts), round(len(counts) ** (n / 159))) for n in range(160)})
    entropy = abs(sum(count / total * math.log2(count / total) for count in counts))  # abs: no -0.0 for one code
    # Scores come first: a stored histogram has only the most used entries.
    used = round(scores["codebook_usage"] * entries) if "codebook_usage" in scores else len(counts)
    return {
        "row": index, "entries": entries, "num_codebooks": book["num_codebooks"], "used": used, "max_used": max_used,
        "uniform_count": max(1.0, total / entries), "points": [[rank, counts[rank - 1]] for rank in ranks],
        "entropy": scores["codebook_entropy"] / math.log(2) if "codebook_entropy" in scores else entropy,
        "entropy_bound": scores.get("codebook_entropy_bound", math.log(max_used)) / math.log(2),
        "digits": [_digits(entropies, book) for entropies in book["digit_entropies"] if len(entropies) > 1],
    }


def _digits(entropies: Sequence[float], book: Mapping[str, Any]) -> list[list[float]]:
    """Entropy of each digit (stored in nats) and its upper bound, in bits."""
    sizes = book.get("digits") or [book["size"] ** (1 / len(entropies))] * len(entropies)
    bounds = [max(math.log(size), entropy, 1e-9) for size, entropy in zip(sizes, entropies, strict=True)]
    return [[entropy / math.log(2), bound / math.log(2)] for entropy, bound in zip(entropies, bounds, strict=True)]


def _clips(rows: Sequence[Row], columns: Columns) -> list[dict[str, Any]]:
    clips = []
    for n in range(max(len(row["videos"]) for row in rows)):
        originals = dict.fromkeys(str(path) for row in rows for path in row["original_videos"][n:n + 1])
        cells = [{"path": path, "title": "Original", "caption": ""} for path in originals]
        cells += [{"path": str(path), "title": row["title"], "caption": _caption(row, columns)}
                  for row in rows for path in row["videos"][n:n + 1]]
        clips.append({"title": f"Clip {n + 1}", "cells": cells})
    return clips


def _caption(row: Row, columns: Columns) -> str:
    texts = {"psnr": "PSNR {} dB", "bits_per_pixel": "{} bits/pixel"}
    return " · ".join(text.format(_decimal(row["finite"][name], columns[name][0]))
                      for name, text in texts.items() if name in row["finite"])


def _media(folder: Path, name: str) -> dict[str, Any]:
    """A video as a data URI with its frame rate and size, or an error message."""
    import av

    try:
        file = (folder / name).resolve()
        if not file.is_relative_to(folder.resolve()):
            return {"problem": f"{name} is outside the report's folder"}
        if not file.is_file():
            return {"problem": f"{name} is missing"}
        kind = {".webm": "webm"}.get(file.suffix.lower(), "mp4")
        # The fixed format keeps FFmpeg from opening playlists, which may name other files.
        with av.open(str(file), format=kind) as container:
            stream = container.streams.video[0]
            frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
            size = {"width": stream.width, "height": stream.height}
            fps = float(stream.average_rate or stream.guessed_rate)
    except (av.FFmpegError, IndexError, OSError, TypeError, ValueError) as error:
        return {"problem": f"{name} is not a video: {error}"}
    data = base64.b64encode(file.read_bytes()).decode()
    return {"src": f"data:video/{kind};base64,{data}", "fps": fps, "frames": frames, **size}
