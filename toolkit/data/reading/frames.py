"""Decoded video frames to RGB.

Applied: the stream's matrix (BT.601 if it names none) and range; display matrices of the eight orientations (turns by
quarters and mirrors); transparency, over white (straight alpha). Not applied: primaries and transfer, so PQ and HLG
are not tone-mapped; pixel aspect ratios, so frames have the stored size; other display matrices. The last two are
logged, once for each ratio and matrix.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import numpy as np
import torch
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter
from torch import Tensor

from toolkit.contracts import DataError
from toolkit.data.reading.files import path_in_errors, unreadable

logger = logging.getLogger(__name__)

MAX_TILT = 0.01  # terms that an orientation has as 0 may be this share of the others: about half a degree
UNNAMED_SIDE_DATA = range(max(kind.value for kind in Type) + 1, 48)  # FFmpeg's types that PyAV has no name for
Orientation = tuple[bool, bool, bool]  # transpose, flip rows, flip columns
_logged: set[object] = set()


def _log_once(subject: object, message: str, *values: object) -> None:
    if subject not in _logged:
        _logged.add(subject)
        logger.warning(message, *values)


def log_aspect(aspect: Fraction | None, *, path: str | os.PathLike) -> None:
    """Log that the pixels of a file are read as squares, if their width : height is another; once for each ratio.

    Example:
        >>> log_aspect(Fraction(1), path="square.mp4")
    """
    if aspect and aspect != 1:
        _log_once(aspect, "%s: its pixels are not square (%s : %s); frames keep the stored size. Other files with this "
                          "ratio are not reported.", os.fspath(path), aspect.numerator, aspect.denominator)


def rgb(frame: av.VideoFrame, *, converter: VideoReformatter | None = None,
        orientation: Orientation | None = None) -> Tensor:
    """A decoded frame -> (H, W, 3) uint8, upright, transparency composited on white.

    Pass one ``converter`` for all frames of a file: creating one costs as much as converting a small frame.
    ``orientation`` replaces the frame's own :func:`orientation_of`. A DataError without a path is raised for colours
    that FFmpeg cannot convert.
    """
    converter = converter or VideoReformatter()
    components = frame.format.components
    if frame.format.has_palette or any(component.is_alpha for component in components):
        deep = max(component.bits for component in components) > 8  # FFmpeg's conversion to 8 bits has inexact alpha
        pixels = _on_white(_convert(frame, "rgba64le" if deep else "rgba", converter))
    else:
        pixels = _convert(frame, "rgb24", converter)
    transpose, flip_rows, flip_columns = orientation or orientation_of(frame)
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    pixels = pixels[::-1 if flip_rows else 1, ::-1 if flip_columns else 1]
    return torch.from_numpy(np.ascontiguousarray(pixels))


def _convert(frame: av.VideoFrame, layout: str, converter: VideoReformatter) -> np.ndarray:
    """(H, W, channels) in an interleaved pixel format; shares the memory of the converted frame."""
    try:
        converted = converter.reformat(frame, format=layout)
    except av.FFmpegError as error:
        raise DataError(f"needed colours that FFmpeg can convert, got {frame.format.name} with the matrix number "
                        f"{int(frame.colorspace)} of ITU-T H.273; convert the video to BT.709.") from error
    components = converted.format.components
    # lines may be padded in memory
    lines = np.frombuffer(converted.planes[0], f"<u{components[0].bits // 8}").reshape(frame.height, -1)
    return lines[:, :len(components) * frame.width].reshape(frame.height, frame.width, -1)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) of 8 or 16 bits -> (H, W, 3) uint8."""
    largest = np.iinfo(pixels.dtype).max
    colour, opacity = np.split(pixels.astype(np.float32) / largest, [3], axis=-1)
    return np.round(255 * (1 - (1 - colour) * opacity)).astype(np.uint8)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The steps, in this order, by which a stored picture becomes upright.

    The display matrix maps column x and row y to x' = a x + c y and y' = b x + d y (ISO 14496-12). Scales are ignored.
    Any but the eight orientations is logged and not applied.
    """
    matrix = _display_matrix(frame)
    a, b, _, c, d = matrix[:5]
    straight, crossed = sorted((abs(a), abs(d))), sorted((abs(b), abs(c)))
    if straight[0] > 0 and crossed[1] <= MAX_TILT * straight[0]:
        return False, d < 0, a < 0
    if crossed[0] > 0 and straight[1] <= MAX_TILT * crossed[0]:
        return True, b < 0, c < 0
    _log_once(matrix, "needed a display matrix that turns by quarters or mirrors, got %s; frames with it keep the "
                      "stored orientation.", matrix)
    return False, False, False


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    """The matrix (a, b, u, c, d, v, x, y, w) of a frame; the identity if it has none."""
    try:
        side_data = list(frame.side_data)
    except ValueError:  # PyAV cannot list types that it has no name for, such as EXIF
        side_data = _without_unnamed_side_data(frame).side_data
    # of two, the first is the container's, which players prefer to the stream's
    matrices = (struct.unpack("9i", bytes(data)) for data in side_data if data.type is Type.DISPLAYMATRIX)
    return next(matrices, (1, 0, 0, 0, 1, 0, 0, 0, 1))


def _without_unnamed_side_data(frame: av.VideoFrame) -> av.VideoFrame:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name,
                              time_base=frame.time_base or Fraction(1))
    graph.link_nodes(source, *(graph.add("sidedata", f"mode=delete:type={kind}") for kind in UNNAMED_SIDE_DATA),
                     graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def check_one_size(sizes: Iterable[tuple[int, int]], *, path: str | os.PathLike) -> None:
    """Raise a DataError if the frames of a file have several sizes (H, W)."""
    if len(different := set(sizes)) > 1:
        raise unreadable(path, f"needed frames of one size, got {sorted(different)}; re-encode it.")


class RGBFrames(Sequence[Tensor]):
    """Decoded frames of one size, converted to RGB when indexed, which halves the memory of a 720p clip."""

    def __init__(self, frames: Sequence[av.VideoFrame], *, path: str | os.PathLike,
                 orientation: Orientation | None = None):
        transposed = [(orientation or orientation_of(frame))[0] for frame in frames]
        check_one_size(((frame.width, frame.height) if swap else (frame.height, frame.width)
                        for frame, swap in zip(frames, transposed, strict=True)), path=path)
        self._frames, self._path, self._orientation, self._converter = frames, path, orientation, VideoReformatter()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Tensor:
        with path_in_errors(self._path):
            return rgb(self._frames[index], converter=self._converter, orientation=self._orientation)
