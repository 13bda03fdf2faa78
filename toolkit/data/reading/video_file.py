"""One video file: its frames from any time on, by seeking (PyAV).

Frames are converted as PyAV does by default (the stream's own matrix, BT.601 if it names none). Quarter
turns of the display matrix are applied, pixel aspect ratios are not.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain, islice

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from toolkit.data.reading.files import unreadable

SEEK_BACK = (0.0, 0.25, 1.0, 4.0, 16.0)  # seconds to seek earlier when a seek lands too late
NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS: raw streams, whose duration is a guess from the bit rate


@dataclass(frozen=True)
class VideoInfo:
    """Metadata of a video stream; ``num_frames`` is an estimate from the duration if the file does not count them."""

    start: float  # seconds at the first frame, not always 0
    fps: float  # average frames per second
    num_frames: int


class VideoFile(AbstractContextManager):
    """An open video (a file, or all of its bytes), read in presentation order from any time.

    ``name`` is the path in error messages and a hint of the format. ``thread_type`` is PyAV's: "NONE" decodes no extra
    frames and suits loader workers, "AUTO" is faster for many frames. ``num_decoded`` counts decoded frames. A
    DataError is raised if the file is no video, at the start or while it is read.
    """

    def __init__(self, source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None,
                 thread_type: str = "NONE"):
        self._source, self.thread_type, self.num_decoded = source, thread_type, 0
        self.path = name or ("bytes" if isinstance(source, bytes) else source)
        self._container = None
        self._open()
        with self._named_errors():
            self.info = self._read_info()

    def __exit__(self, *exc: object) -> None:
        self._container.close()

    def _open(self) -> None:
        if self._container is not None:
            self._container.close()
        if isinstance(self._source, bytes):
            file = io.BytesIO(self._source)
            file.name = os.fspath(self.path)  # FFmpeg reads the suffix
        else:
            file = os.fspath(self._source)
        with self._named_errors():
            # a malformed title tag must not make a video unreadable
            self._container = av.open(file, metadata_errors="ignore")
        self._stream = self._container.streams.best("video")  # not the cover picture
        if self._stream is None:
            self._container.close()
            raise unreadable(self.path, "needed a video stream, got none; remove the file.")
        if self._stream.codec_context is None:
            self._container.close()
            raise unreadable(self.path, "needed a codec that FFmpeg knows, got another; convert or remove the file.")
        self._stream.thread_type = self.thread_type
        if self.thread_type == "NONE":
            self._stream.codec_context.thread_count = 1

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise unreadable(self.path, f"needed a video that FFmpeg can decode, got {error.strerror or error}; "
                                        "check the file, convert it or remove it.") from error

    @property
    def _can_seek(self) -> bool:
        """Not in program streams (``.mpg``), whose timestamps change after a seek, nor without timestamps."""
        form = self._container.format
        return form.name != "mpeg" and not form.flags & NO_TIMESTAMPS

    def _read_info(self) -> VideoInfo:
        stream, container = self._stream, self._container
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or 25
        start = float((stream.start_time or 0) * stream.time_base)
        if not self._can_seek or not (stream.frames or stream.duration or container.duration):
            # live recordings have no duration and program streams a wrong one; counting packets decodes nothing
            count = sum(1 for packet in container.demux(stream) if packet.size)
            self._open()
        elif stream.frames:
            count = stream.frames
        else:
            seconds = stream.duration * stream.time_base if stream.duration else container.duration / av.time_base
            count = max(1, round(float(seconds) * rate))
        return VideoInfo(start, float(rate), count)

    def frames_from(self, seconds: float = -math.inf) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds, frame) in presentation order, from a keyframe at or before ``seconds`` of the stream's clock.

        The clock begins at ``info.start``. A seek may land elsewhere than requested, so the first frame is checked.
        """
        if seconds > self.info.start:
            for frames in self._landings(seconds):
                first = next(frames, None)
                if first is not None and first[0] <= seconds + float(self._stream.time_base):
                    yield first
                    yield from frames
                    return
        self._open()
        yield from self._decode(self._container.demux(self._stream), sought=False)

    def _landings(self, seconds: float) -> Iterator[Iterator[tuple[float, av.VideoFrame]]]:
        """Frames from some keyframe before ``seconds``, by several ways, the cheapest first."""
        for back in SEEK_BACK if self._can_seek else ():
            if seconds - back <= self.info.start:
                break
            try:
                self._container.seek(round((seconds - back) / self._stream.time_base), stream=self._stream)
            except av.FFmpegError:  # no index: the packets are read from the start below
                break
            yield self._decode(self._container.demux(self._stream), sought=True)
        self._open()
        yield self._decode(self._packets_from(seconds), sought=True)

    def _packets_from(self, seconds: float) -> Iterator[av.Packet]:
        """All packets from the last keyframe at or before ``seconds``; those before are dropped."""
        packets, group = self._container.demux(self._stream), []
        for packet in packets:
            if packet.is_keyframe and packet.pts is not None:
                if packet.pts * self._stream.time_base > seconds:
                    group.append(packet)
                    break
                group = []
            group.append(packet)
        yield from chain(group, packets)

    def _decode(self, packets: Iterator[av.Packet], *, sought: bool) -> Iterator[tuple[float, av.VideoFrame]]:
        seconds = None
        with self._named_errors():
            for frame in (frame for packet in packets for frame in packet.decode()):
                self.num_decoded += 1
                if sought and seconds is None and (frame.time is None or not frame.key_frame):
                    continue  # frames before the first keyframe lack their references
                if frame.is_corrupt:  # the decoder filled in missing data
                    raise unreadable(self.path, "needed whole frames, got damaged ones; check the file, it may be "
                                                "truncated.")
                if frame.time is None:
                    seconds = self.info.start if seconds is None else seconds + 1.0 / self.info.fps
                else:  # guessed timestamps of raw streams may run backwards
                    seconds = frame.time if seconds is None else max(seconds, frame.time)
                yield seconds, frame

    def _time_of(self, number: int) -> float | None:
        """Seconds at the ``number``-th frame, read from the packets without decoding, or None if unknown."""
        if self._container.format.flags & NO_TIMESTAMPS:
            return None
        packets = (packet for packet in self._container.demux(self._stream) if packet.size and not packet.is_discard)
        # packets come in decoding order, and 32 is at least the largest delay of any codec
        heads = [(packet.pts, packet.is_keyframe) for packet in islice(packets, number + 1 + 32)]
        self._open()
        stamps = [pts for pts, _ in heads]
        # a stream that does not begin with a keyframe, or shows frames before it, has packets without a frame
        if len(stamps) <= number or None in stamps or not heads[0][1] or min(stamps) < stamps[0]:
            return None
        return float(sorted(stamps)[number] * self._stream.time_base)

    def frames_at(self, number: int) -> Iterator[av.VideoFrame]:
        """Frames from the ``number``-th on, exactly: by seeking, or counted from the start."""
        seconds = self._time_of(number) if number else None
        if seconds is not None:
            frames = self.frames_from(seconds)
            tick = 0.5 * float(self._stream.time_base)
            reached = next((item for item in frames if item[0] >= seconds - tick), None)
            if reached is not None and reached[0] <= seconds + tick:
                yield reached[1]
                yield from (frame for _, frame in frames)
                return
        yield from (frame for _, frame in islice(self.frames_from(), number, None))

    def rgb_frames(self, *, start: int = 0, frame_stride: int = 1) -> Iterator[Tensor]:
        """Every ``frame_stride``-th frame from the ``start``-th on, (H, W, 3) uint8."""
        if start < 0 or frame_stride < 1:
            raise ValueError(f"reading frames takes start >= 0 and frame_stride >= 1, got {start} and {frame_stride}.")
        return (rgb(frame) for frame in islice(self.frames_at(start), 0, None, frame_stride))


def rgb(frame: av.VideoFrame, *, converter: VideoReformatter | None = None) -> Tensor:
    """A decoded frame -> (H, W, 3) uint8, upright, transparency composited on white.

    Pass one ``converter`` for all frames of a file: creating one costs as much as converting a small frame.
    """
    transparent = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    layout, channels = ("rgba", 4) if transparent else ("rgb24", 3)
    converted = (converter or VideoReformatter()).reformat(frame, format=layout)
    height, width, plane = converted.height, converted.width, converted.planes[0]
    # lines may be padded in memory
    lines = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
    pixels = lines[:, :channels * width].reshape(height, width, channels)
    if transparent:
        colour, opacity = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
        pixels = ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    quarter_turns = round(frame.rotation / 90)
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, quarter_turns)))


def check_one_size(sizes: Iterable[tuple[int, int]], *, path: str | os.PathLike) -> None:
    """Raise a DataError if the frames of a file have several sizes (H, W)."""
    if len(different := set(sizes)) > 1:
        raise unreadable(path, f"needed frames of one size, got {sorted(different)}; re-encode it.")


class RGBFrames(Sequence[Tensor]):
    """Decoded frames of one size, converted to RGB when indexed, which halves the memory of a 720p clip."""

    def __init__(self, frames: Sequence[av.VideoFrame], *, path: str | os.PathLike):
        check_one_size(((frame.height, frame.width)[::-1 if round(frame.rotation / 90) % 2 else 1] for frame in frames),
                       path=path)
        self._frames, self._converter = frames, VideoReformatter()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Tensor:
        return rgb(self._frames[index], converter=self._converter)
