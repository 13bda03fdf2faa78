"""Small ICC profiles: primaries and a gamma."""

from __future__ import annotations

import struct

import numpy as np

# columns of the matrix from linear RGB to XYZ under D50: red, green, blue
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
D50 = (0.9642, 1.0, 0.8249)


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(*, gamma: float, primaries: tuple | None = None) -> bytes:
    """A profile of RGB with these primaries, or of grey."""
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    if primaries is None:
        return _packed({b"kTRC": curve}, device=b"mntr", space=b"GRAY", connection=b"XYZ ")
    red, green, blue = map(_xyz, primaries)
    return _packed({b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve},
                   device=b"mntr", space=b"RGB ", connection=b"XYZ ")


def ink_profile(darkness: tuple[int, int, int, int]) -> bytes:
    """A profile of CMYK: grey of L* 100 minus so much for each full ink."""
    identity = bytes(range(256))
    corners = [100 - sum(dark for bit, dark in zip(f"{number:04b}", darkness, strict=True) if bit == "1")
               for number in range(16)]
    matrix = struct.pack(">9i", *(65536 * value for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4
    table += b"".join(bytes([round(level * 2.55), 128, 128]) for level in corners) + identity * 3
    return _packed({b"A2B0": table}, device=b"prtr", space=b"CMYK", connection=b"Lab ")


def _packed(tags: dict[bytes, bytes], *, device: bytes, space: bytes, connection: bytes) -> bytes:
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78, b"wtpt": _xyz(D50)} | tags
    start, table, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"lcms", 0x02400000, device, space, connection)
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + _xyz(D50)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light of 0 to 1 as 0 to 255: the curve of sRGB (IEC 61966-2-1)."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_srgb(colours: np.ndarray, *, gamma: float, primaries: tuple) -> np.ndarray:
    """Colours (..., 3) of 0 to 255 in sRGB, in float."""
    matrix = np.linalg.inv(np.array(SRGB).T) @ np.array(primaries).T
    return encoded(np.clip((np.asarray(colours) / 255.0) ** gamma @ matrix.T, 0, 1))
