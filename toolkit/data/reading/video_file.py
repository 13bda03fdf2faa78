"""One video file: its frames by number, by seeking (PyAV)."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain, dropwhile, islice, takewhile

import av
import numpy as np
from av.stream import Disposition
from torch import Tensor

from toolkit.contracts import DataError
from toolkit.data.reading.files import check_regular, name_of, path_in_errors, unreadable
from toolkit.data.reading.frames import Orientation, RGBFrames, log_aspect, orientation_of, rgb
from toolkit.data.reading.video_index import (
    INDEXES,
    NO_TIME,
    NO_TIMESTAMPS,
    FrameIndex,
    build_index,
    is_keyframe,
    packet_header,
)

logger = logging.getLogger(__name__)

GROUPS_BACK = (0, 1, 4, 16)  # groups before the frame's own at which decoding starts, tried in order; then the start
SECONDS_BACK = (0.0, 0.25, 1.0, 4.0, 16.0)  # how much earlier to seek, where a seek lands too late
MAX_UNKNOWN = 64  # packets that are read after a seek until one is found in the index
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # codec -> decoder; FFmpeg's own ones ignore the opacity


def _has_alpha(stream: av.VideoStream) -> bool:
    # the tag's case changes when a file is copied
    return any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())


class VideoFile(AbstractContextManager):
    """An open video (a file, or all of its bytes), whose frames are numbered as a player shows them.

    ``name`` is the path in error messages and a hint of the format. ``thread_type`` is PyAV's: "NONE" decodes no extra
    frames and suits loader workers, "AUTO" is faster for many frames. ``index_dir`` is a folder that keeps the index of
    the file's frames for the next run. ``num_decoded`` counts decoded frames. A file that is no video raises a
    DataError, when it is opened or while it is read.
    """

    _container = _decoder = None
    _orientation: Orientation | None = None  # of the frames, where the decoder does not give it
    _position_token: object = None  # replaced at each seek and reopening, so that an iterator notices; None: closed

    def __init__(self, source: str | os.PathLike | bytes, *, name: str | os.PathLike | None = None,
                 thread_type: str = "NONE", index_dir: str | os.PathLike | None = None):
        self._source, self.thread_type, self.num_decoded = source, thread_type, 0
        self.path = name_of(source, name)
        self._index_dir = index_dir
        self._open()

    def __exit__(self, *exc: object) -> None:
        self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        # PyAV frees a decoder with the interpreter locked and waits for its threads, which may want it to log
        self._position_token = None
        if self._decoder is not None:
            self._decoder.flush_buffers()
        if self._container is not None:
            self._container.close()

    def _open(self) -> None:
        self._close()
        if isinstance(self._source, bytes):
            file = io.BytesIO(self._source)
            file.name = os.fspath(self.path)  # FFmpeg reads the suffix
        else:
            file = os.fspath(self._source)
        with self._named_errors():
            # a malformed title tag must not make a video unreadable
            self._container = av.open(file, metadata_errors="ignore")
        self._stream = self._container.streams.best("video")
        if self._stream is None or self._stream.disposition & Disposition.attached_pic:  # the cover of a sound file
            self._container.close()
            raise unreadable(self.path, "needed a video stream, got none; remove the file.")
        if self._stream.codec_context is None:
            self._container.close()
            raise unreadable(self.path, "needed a codec that FFmpeg knows, got another; convert or remove the file.")
        log_aspect(self._stream.sample_aspect_ratio, path=self.path)
        self._decoder, self._position_token, self._is_unread = self._new_decoder(), object(), True

    def _check_open(self) -> None:
        if self._position_token is None:
            raise ValueError(f"{os.fspath(self.path)} is closed; read its frames inside the with block.")

    def _new_decoder(self) -> av.VideoCodecContext:
        stream, decoder = self._stream, self._stream.codec_context
        if decoder.name in WITH_ALPHA and _has_alpha(stream):
            decoder = av.CodecContext.create(WITH_ALPHA[decoder.name], "r")
            decoder.extradata = stream.codec_context.extradata
            stream.codec_context.thread_count = 1  # it decodes one frame, see _orientation_of
        decoder.thread_type = self.thread_type
        if self.thread_type == "NONE":
            decoder.thread_count = 1
        return decoder

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, IndexError, OSError) as error:  # IndexError: PyAV, for packets of a new stream
            problem = getattr(error, "strerror", None) or error
            raise unreadable(self.path, f"needed a video that FFmpeg can decode, got {problem}; check the file, "
                                        "convert it or remove it.") from error

    @cached_property
    def index(self) -> FrameIndex:
        """The index of the frames, built at its first use; that of a path is kept in ``INDEXES``."""
        if isinstance(self._source, bytes):
            return self._build_index()
        check_regular(self._source)  # it may be gone by now
        return INDEXES.get(self._source, self._build_index, folder=self._index_dir)

    def _build_index(self) -> FrameIndex:
        with self._named_errors():
            return build_index((packet for _, packet in self._packets()), stream=self._stream,
                               name=os.fspath(self.path), decode=self._decoded_packets)

    def _decoded_packets(self, stop: int | None) -> list[int]:
        """``decode`` of :func:`build_index`."""
        decoded = (number for number, _ in self._decode(self._packets()))
        return list(takewhile(lambda number: stop is None or number < stop, decoded))

    @property
    def times(self) -> np.ndarray:
        """(N,) float64: the seconds at which each frame is shown, from the first one on."""
        return self.index.seconds

    @property
    def fps(self) -> float:
        """Average frames per second."""
        return float(self.index.fps)

    def _packets(self) -> Iterator[tuple[int, av.Packet]]:
        """(number, packet) from the start of the file; the empty packets at its end are not counted."""
        self._check_open()
        if not self._is_unread:
            self._open()  # a seek to the start is not exact in every format
        self._is_unread = False
        yield from enumerate(packet for packet in self._container.demux(self._stream) if packet.size)

    def _decode(self, packets: Iterable[tuple[int, av.Packet]]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number of its packet, frame) in presentation order."""
        begun = False
        with self._named_errors():
            for number, packet in chain(packets, [(None, None)]):  # None: the decoder gives its last frames
                if packet is not None:
                    begun = begun or is_keyframe(packet, self._stream.codec_context.name)
                    if not begun and not self._decoder.is_open:
                        self._decoder.thread_count = 1  # several threads report errors some packets later
                    packet.pts = packet.dts = number  # the decoder copies it to the packet's frame
                    if begun and self._orientation is None and self._decoder is not self._stream.codec_context:
                        self._orientation = self._orientation_of(packet)
                try:
                    frames = self._decoder.decode(packet)
                except av.error.InvalidDataError:
                    if begun:
                        raise
                    continue  # it needs frames from before the start of the file
                for frame in frames:
                    self.num_decoded += 1
                    yield -1 if frame.pts is None else frame.pts, frame

    def _orientation_of(self, packet: av.Packet) -> Orientation | None:
        """The orientation of a keyframe by FFmpeg's own decoder, to which the stream passes the display matrix."""
        frames = self._stream.codec_context.decode(packet)
        return orientation_of(frames[0]) if frames else None

    def _seek(self, keyframe: int) -> Iterator[tuple[int, av.Packet]]:
        """(number, packet) from a keyframe on: by the fastest seek that finds it, or by reading from the start."""
        self._position_token, time = object(), int(self.index.time[keyframe])
        can_seek = time != NO_TIME and not self._container.format.flags & NO_TIMESTAMPS
        self._is_unread = False
        for back in SECONDS_BACK if can_seek else ():
            try:
                self._container.seek(time - round(back / self._stream.time_base), stream=self._stream)
            except av.FFmpegError:
                break
            self._decoder.flush_buffers()
            packets = (packet for packet in self._container.demux(self._stream) if packet.size)
            number, first = self._find(keyframe, packets)
            if number is None:
                break
            if number == keyframe:
                return enumerate(chain([first], packets), keyframe)
        return dropwhile(lambda item: item[0] < keyframe, self._packets())

    def _find(self, keyframe: int, packets: Iterator[av.Packet]) -> tuple[int | None, av.Packet | None]:
        """(number, packet) of the keyframe, or of a packet after it if there is none; (None, None): none is found.

        FFmpeg may leave out packets between the place of the seek and the keyframe, so they are not counted.
        """
        number, unknown = None, 0
        for packet in packets:
            found = self._number_of(packet, expected=None if number is None else number + 1)
            number = number + 1 if found is None and number is not None else found
            if number is not None and number >= keyframe:
                return number, packet
            unknown += number is None
            if unknown >= MAX_UNKNOWN:
                break
        return None, None

    def _number_of(self, packet: av.Packet, *, expected: int | None = None) -> int | None:
        """The number of a packet, found by offset and size: a seek may change its time. None without a unique match.

        The ``expected`` number is tried first.
        """
        index, (offset, size, time) = self.index, packet_header(packet)
        if (expected is not None and expected < len(index.size) and offset >= 0
                and (index.offset[expected], index.size[expected]) == (offset, size)):
            return expected
        same = (index.offset == offset) & (index.size == size) & (offset >= 0)
        if np.count_nonzero(same) > 1:  # an edit list may show a packet twice
            same &= index.time == time
        numbers = np.flatnonzero(same)
        return int(numbers[0]) if len(numbers) == 1 else None

    def _numbered(self, packets: Iterable[tuple[int, av.Packet]], group: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """(frame number, frame) of packets from a group on, or from the start (-1); number -1: not in the index."""
        frames = self._decode(packets)
        if group < 0:
            return ((number, frame) for number, (_, frame) in enumerate(frames))
        index = self.index
        if index.ordered:
            numbers = index.numbers()
            return ((int(numbers[packet]), frame) for packet, frame in frames)
        # leading frames of the first group may be missing, so counting begins with the second
        second = index.keyframes[group + 1]
        frames = dropwhile(lambda item: item[0] < second, frames)
        return ((number, frame) for number, (_, frame) in enumerate(frames, int(index.first_frames()[group + 1])))

    def _numbered_from(self, number: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """(frame number, frame) from frame ``number`` on, by the index; :meth:`frames_from` checks the numbers."""
        group = self.index.group_before(number)
        for start in (group - back for back in GROUPS_BACK):
            if start < 1:
                break
            frames = self._numbered(self._seek(int(self.index.keyframes[start])), start)
            try:
                first = next((item for item in frames if item[0] >= number), None)
            except DataError:  # what the group needs, such as a joined part's headers, may come before its keyframe
                continue
            if first is not None and first[0] == number and not first[1].is_corrupt:
                return chain([first], frames)
        return dropwhile(lambda item: item[0] < number, self._numbered(self._packets(), -1))

    def frames_from(self, number: int = 0) -> Iterator[av.VideoFrame]:
        """Frame ``number`` and all after it, as decoded; none if the file has fewer.

        Several iterators of one file may alternate, but not in several threads. An iterator seeks again after another
        one has moved the position.
        """
        position = number
        while True:
            self._check_open()
            for frame in self._frames_at(position):
                token = self._position_token
                yield frame
                position += 1
                if token is not self._position_token:  # PyAV may crash if another one went on, or it is closed
                    break
            else:
                return

    def _frames_at(self, number: int) -> Iterator[av.VideoFrame]:
        if number and number >= len(self.times):
            return
        frames = self._numbered_from(number) if number else self._numbered(self._packets(), -1)
        position = number
        for frame_number, frame in frames:
            if frame_number != position:
                break
            if frame.is_corrupt:  # the decoder filled in missing data
                raise unreadable(self.path, "needed whole frames, got damaged ones; check the file, it may be "
                                            "truncated.")
            yield frame
            position += 1
        if number and position < len(self.times):  # the seek gave other frames than the index has, or fewer
            self._correct_index()
            yield from islice(self._frames_at(0), position, None)

    def _correct_index(self) -> None:
        """Count the frames by decoding all; if that was done before, never seek in this file again."""
        if self.index.decoded:  # without keyframes all decoding begins at the start
            self.index = replace(self.index, keyframes=self.index.keyframes[:0])
        else:
            logger.info("%s: decoding all frames to count them: some packets have none.", self.path)
            self.index = self.index.with_decoded_packets(self._decoded_packets(None))
        if not isinstance(self._source, bytes):
            INDEXES.put(self._source, self.index, folder=self._index_dir)

    def read(self, numbers: Sequence[int]) -> RGBFrames:
        """The frames of ascending numbers, which may repeat; a DataError if the file ends before."""
        frames, chosen = enumerate(self.frames_from(numbers[0]), numbers[0]), []
        position = -1
        for number in numbers:
            while position < number:
                position, frame = next(frames, (None, None))
                if frame is None:
                    raise unreadable(self.path, f"needed frame {number}, got {len(self.times)} frames; ask for fewer.")
            chosen.append(frame)
        return RGBFrames(chosen, path=self.path, orientation=self._orientation)

    def rgb_frames(self, *, start: int = 0, frame_stride: int = 1) -> Iterator[Tensor]:
        """Every ``frame_stride``-th frame from the ``start``-th on, (H, W, 3) uint8."""
        if start < 0 or frame_stride < 1:
            raise ValueError(f"reading frames takes start >= 0 and frame_stride >= 1, got {start} and {frame_stride}.")
        return self._rgb_frames(start, frame_stride)

    def _rgb_frames(self, start: int, frame_stride: int) -> Iterator[Tensor]:
        for frame in islice(self.frames_from(start), 0, None, frame_stride):
            with path_in_errors(self.path):
                pixels = rgb(frame, orientation=self._orientation)
            yield pixels
