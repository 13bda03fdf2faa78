"""Writes AVIF images of several tiles, as cameras do."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def encode_tile(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """The configuration box and the data of one tile, from Pillow's AVIF."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "avif", quality=100, subsampling="4:4:4")
    content = file.getvalue()
    start, data = content.index(b"av1C") - 4, content.index(b"mdat") - 4
    size, length = (struct.unpack(">I", content[place:place + 4])[0] for place in (start, data))
    return content[start:start + size], content[data + 8:data + length]


def write_tiled_avif(path: Path, pixels: np.ndarray, *, rows: int, columns: int) -> Path:
    """An AVIF of pixels (H, W, 3), cut into rows x columns tiles of equal size."""
    height, width = pixels.shape[:2]
    tiles = [encode_tile(np.ascontiguousarray(tile)) for row in np.split(pixels, rows)
             for tile in np.split(row, columns, axis=1)]
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    items = [grid, *(data for _, data in tiles)]
    numbers = range(1, len(items) + 1)
    infos = [full_box(b"infe", 2, 0, struct.pack(">HH", number, 0), b"grid\0" if number == 1 else b"av01\0")
             for number in numbers]
    properties = box(b"ipco", tiles[0][0],
                     full_box(b"ispe", 0, 0, struct.pack(">II", width // columns, height // rows)),
                     full_box(b"ispe", 0, 0, struct.pack(">II", width, height)),
                     full_box(b"pixi", 0, 0, b"\3\x08\x08\x08"),
                     box(b"colr", b"nclx", struct.pack(">HHHB", 1, 13, 6, 0x80)))
    of_items = [struct.pack(">HB3B", 1, 3, 3, 4, 5),  # of the grid; then of each tile
                *(struct.pack(">HB4B", number, 4, 0x81, 2, 4, 5) for number in numbers[1:])]
    references = box(b"dimg", struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *numbers[1:]))

    def meta(start: int) -> bytes:
        starts = np.cumsum([start, *map(len, items)])
        places = [struct.pack(">HHHII", number, 0, 1, starts[number - 1], len(items[number - 1]))
                  for number in numbers]
        return full_box(
            b"meta", 0, 0, full_box(b"hdlr", 0, 0, b"\0" * 4 + b"pict" + b"\0" * 13),
            full_box(b"pitm", 0, 0, struct.pack(">H", 1)),
            full_box(b"iloc", 0, 0, struct.pack(">BBH", 0x44, 0, len(items)), *places),
            full_box(b"iinf", 0, 0, struct.pack(">H", len(items)), *infos), full_box(b"iref", 0, 0, references),
            box(b"iprp", properties, full_box(b"ipma", 0, 0, struct.pack(">I", len(items)), *of_items)))

    kind = box(b"ftyp", b"avif", struct.pack(">I", 0), b"avifmif1miafMA1A")
    path.write_bytes(kind + meta(len(kind) + len(meta(0)) + 8) + box(b"mdat", *items))
    return path
