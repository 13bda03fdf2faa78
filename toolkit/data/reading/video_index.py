"""The index of a video's frames, from the headers of its packets: the packet of each frame, and when it is shown.

A packet is one encoded frame. Packets are stored in decoding order, in groups of pictures (GOPs, here: groups), each of
which begins with a keyframe. Groups are shown one after the other, and the frames of a group in the order of their
presentation times. A leading frame is stored after the keyframe of its group and shown before it; it may refer to the
previous group.

Frame numbers follow from this without decoding, with three exceptions:

- Frames before the first keyframe, and leading frames of the first group: the file is decoded up to the second
  keyframe, to see which of them the decoder can show.
- Groups in a container that does not store every presentation time (AVI, program streams): the reader decodes from a
  keyframe and counts.
- Packets without a frame of their own (empty packets of MPEG-4, second fields), raw streams, and joined
  parts that do not begin with a keyframe: all frames are decoded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import av
import numpy as np

from toolkit.io.atomic_write import atomic_write

logger = logging.getLogger(__name__)

NO_TIME = np.iinfo(np.int64).min
NO_TIMESTAMPS = 0x80  # FFmpeg's AVFMT_NOTIMESTAMPS, of raw streams
MAX_PACKETS_IN_MEMORY = 2_000_000  # in all indexes of a process; one takes about 60 bytes
DEFAULT_RATE = 25.0  # frames per second, if neither the header nor the times tell
MAX_JITTER = 1.5  # frames by which decoding times may decrease within one part: FFmpeg guesses some
INTER_BITS = {"vp8": 0b1, "vp9": 0b1100}  # of the first byte; not 0 where a frame refers to others (profiles 0 to 2)
MAX_EMPTY = 10  # bytes of an MPEG-4 packet that says that nothing is coded
VP8_SHOW_FRAME = 0x10  # a bit of a packet's first byte; VP9 packs such frames with one that is shown
RATE_TOLERANCE = 0.01  # the frame rate is the header's, which is exact, where the packets agree to 1 %


@dataclass(frozen=True)
class FrameIndex:
    """P packets and the N frames that a player shows.

    Attributes:
        offset, size, time: (P,) byte offset, bytes, and presentation time in ticks of each packet, in decoding order;
            an offset of -1 or a ``NO_TIME`` is unknown.
        keyframes: (K,) the packets that are keyframes.
        packets: (N,) the packet of each frame, in presentation order; if not ``ordered``, only the groups are in this
            order.
        seconds: (N,) when each frame is shown, from the first one on.
        ordered: () whether ``packets`` is in presentation order within each group too.
        decoded: () whether ``packets`` was found by decoding all frames.
        fps: () average frames per second.
        tick: () seconds per tick.
    """

    offset: np.ndarray
    size: np.ndarray
    time: np.ndarray
    keyframes: np.ndarray
    packets: np.ndarray
    seconds: np.ndarray
    ordered: np.ndarray
    decoded: np.ndarray
    fps: np.ndarray
    tick: np.ndarray

    def first_frames(self) -> np.ndarray:
        """(K,) The number of the first frame of each group, in presentation order."""
        return np.searchsorted(np.sort(self.packets), self.keyframes)

    def numbers(self) -> np.ndarray:
        """(P,) The frame number of each packet, -1 if it is not shown; the index must be ``ordered``."""
        numbers = np.full(len(self.size), -1)
        numbers[self.packets] = np.arange(len(self.packets))
        return numbers

    def group_before(self, number: int) -> int:
        """The last group from which frame ``number`` can be decoded and counted; below 1: from the file's start."""
        if not self.ordered:  # leading frames of the first decoded group may be missing
            return int(np.searchsorted(self.first_frames(), number, side="right")) - 2
        packet = self.packets[number]
        group = int(np.searchsorted(self.keyframes, packet, side="right")) - 1
        leading = group >= 0 and self.time[packet] < self.time[self.keyframes[group]]
        return group - leading

    def with_decoded_packets(self, packets: list[int]) -> FrameIndex:
        """The index of a video whose frames were all decoded, with their packets in presentation order."""
        return replace(self, packets=np.array(packets, np.int64), ordered=np.array(True),
                       decoded=np.array(True)).with_seconds()

    def with_seconds(self) -> FrameIndex:
        """The index with ``seconds`` and ``fps``. Where times restart, as in joined files, ``seconds`` continue."""
        ticks, rate = self.time[self.packets], float(self.fps)
        if not self.ordered:  # the times of a group are those of its frames, in another order
            ticks = np.concatenate([np.sort(group) for group in np.split(ticks, self.first_frames()[1:])])
        if (ticks == NO_TIME).any() or len(ticks) < 2:
            return replace(self, seconds=np.arange(len(ticks)) / rate)
        steps = np.diff(ticks) * float(self.tick)
        steps[steps < 0] = np.median(steps[steps >= 0]) if (steps >= 0).any() else 1 / rate
        seconds = np.concatenate([[0.0], np.cumsum(steps)])
        tolerance = max(RATE_TOLERANCE * seconds[-1], 2 * float(self.tick))
        if seconds[-1] > 0 and abs((len(seconds) - 1) / rate - seconds[-1]) > tolerance:
            rate = (len(seconds) - 1) / seconds[-1]
        return replace(self, seconds=seconds, fps=np.array(rate))


def packet_header(packet: av.Packet) -> tuple[int, int, int]:
    """(byte offset, size in bytes, presentation time in ticks) of a packet, as in the index."""
    return (-1 if packet.pos is None else packet.pos, packet.size, NO_TIME if packet.pts is None else packet.pts)


def is_hidden(packet: av.Packet, codec: str) -> bool:
    """Whether a packet is never shown: an edit list hides it, or it is a reference frame of VP8 only."""
    return packet.is_discard or (codec == "vp8" and not memoryview(packet)[0] & VP8_SHOW_FRAME)


def is_keyframe(packet: av.Packet, codec: str) -> bool:
    """Whether decoding can begin here; the opacity beside a VP8 or VP9 stream has keyframes of its own."""
    if not packet.is_keyframe or codec not in INTER_BITS:
        return packet.is_keyframe
    beside = bytes(packet.get_sidedata("matroska_block_additional"))  # 8 bytes, of which 1 says opacity, and its packet
    return int.from_bytes(beside[:8], "big") != 1 or len(beside) < 9 or not beside[8] & INTER_BITS[codec]


def build_index(packets: Iterable[av.Packet], *, stream: av.VideoStream, name: str,
                decode: Callable[[int | None], list[int]]) -> FrameIndex:
    """The index of a video.

    ``packets`` are all packets of its stream. ``decode(stop)`` decodes from the start and returns the packets of the
    frames that come out, in order: all, or those before the first frame whose packet is ``stop`` or later.
    """
    codec, reorders, tick = stream.codec_context.name, stream.codec_context.has_b_frames, float(stream.time_base)
    rate = float(stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_RATE)
    table = [(*packet_header(packet), NO_TIME if packet.dts is None else packet.dts, is_keyframe(packet, codec),
              is_hidden(packet, codec)) for packet in packets]
    offset, size, time, decoding_time, key, hidden = (np.array(column, np.int64) for column in
                                                      (zip(*table, strict=True) if table else [()] * 6))
    keyframes, shown = np.flatnonzero(key), np.flatnonzero(hidden == 0)
    groups = np.split(shown, np.searchsorted(shown, keyframes))  # the first one lies before the first keyframe
    # packets without an offset of their own have guessed times: a program stream stores one time for several packets
    ordered = not reorders or ((offset >= 0).all() and _gives_order(groups, time))
    index = FrameIndex(offset, size, time, keyframes, packets=shown, seconds=np.zeros(len(shown)),
                       ordered=np.array(ordered), decoded=np.array(False), fps=np.array(rate), tick=np.array(tick))
    if not len(shown):
        return index
    if (decoding_time == NO_TIME).all() or _restarts(decoding_time, key, frame=1 / (rate * tick)):
        # frames after such a break may refer to any before it, so decoding always begins at the start of the file
        index = replace(index, keyframes=keyframes[:0])
    num_without_time = np.count_nonzero(time[shown] == NO_TIME)
    raw = bool(stream.container.format.flags & NO_TIMESTAMPS)  # its times are FFmpeg's guesses
    reasons = {"it is a raw stream": raw, "it has no times, or a part without a keyframe": len(index.keyframes) == 0,
               "some packets have no time, such as second fields": 0 < num_without_time < len(shown),
               "times within a group decrease": _overlaps(groups, time) or (not reorders and _decreases(groups, time)),
               "times within a group repeat": (offset >= 0).all() and _repeats(groups, time),
               "some packets may be empty": codec == "mpeg4" and size.min() <= MAX_EMPTY}
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        logger.info("%s: decoding all frames to count them: %s.", name, reason)
        return index.with_decoded_packets(decode(None))
    order = [group[np.argsort(time[group], kind="stable")] if _has_times(group, time) else group for group in groups]
    leading = len(order[1]) and order[1][0] != keyframes[0]
    if len(order[0]) or leading or not ordered:  # some of these frames may not be decodable
        head = np.array(decode(int(keyframes[1]) if len(keyframes) > 1 else None), np.int64)
        if (missing := len(order[0]) + len(order[1]) - len(head)) > 0:
            logger.info("%s: %d packets at its start cannot be decoded: what they refer to is cut off.", name, missing)
        order[:2] = [head]
    return replace(index, packets=np.concatenate(order)).with_seconds()


def _has_times(group: np.ndarray, time: np.ndarray) -> bool:
    """Whether all packets of a group have presentation times, no two of them equal."""
    return len(np.unique(time[group])) == len(group) and not (time[group] == NO_TIME).any()


def _restarts(decoding_time: np.ndarray, key: np.ndarray, *, frame: float) -> bool:
    """Whether times decrease by over ``MAX_JITTER`` frames (of ``frame`` ticks) at a packet that is no keyframe."""
    known = decoding_time != NO_TIME
    return bool((np.diff(decoding_time[known]) < -MAX_JITTER * frame)[key[known][1:] == 0].any())


def _overlaps(groups: list[np.ndarray], time: np.ndarray) -> bool:
    """Whether a leading frame is shown before frames of the group before it, as in a joined part that was cut."""
    last = NO_TIME
    for ticks in (time[group] for group in groups if len(group)):
        if last >= ticks.min() and ticks[0] > ticks.min():
            return True
        last = ticks.max()
    return False


def _repeats(groups: list[np.ndarray], time: np.ndarray) -> bool:
    """Whether two packets of a group have the same presentation time."""
    return any(not _has_times(group, time) for group in groups if not (time[group] == NO_TIME).any())


def _decreases(groups: list[np.ndarray], time: np.ndarray) -> bool:
    """Whether presentation times decrease within a group."""
    return any((np.diff(time[group]) < 0).any() for group in groups)


def _gives_order(groups: list[np.ndarray], time: np.ndarray) -> bool:
    """Whether ``time`` has presentation times; times that never reorder the frames may be decoding times."""
    return (all(_has_times(group, time) for group in groups)
            and _decreases(groups, time))


class IndexCache:
    """Indexes of files, in memory and, where a folder is given, on disk; a changed file is indexed again."""

    def __init__(self, max_packets: int = MAX_PACKETS_IN_MEMORY):
        self.max_packets, self._num_packets = max_packets, 0
        self._kept: OrderedDict[tuple, FrameIndex] = OrderedDict()

    def get(self, path: str | os.PathLike, build: Callable[[], FrameIndex], *,
            folder: str | os.PathLike | None = None) -> FrameIndex:
        """The index of the file at ``path``, built at its first use."""
        key = _key(path)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        index = _load(_file(key, folder)) if folder else None
        if index is not None:
            self._keep(key, index)
        else:
            self._put(key, index := build(), folder)
        return index

    def put(self, path: str | os.PathLike, index: FrameIndex, *, folder: str | os.PathLike | None = None) -> None:
        """Keep the index of the file at ``path``."""
        self._put(_key(path), index, folder)

    def _put(self, key: tuple, index: FrameIndex, folder: str | os.PathLike | None) -> None:
        self._keep(key, index)
        if not folder:
            return
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with atomic_write(_file(key, folder), unique=True) as partial, partial.open("wb") as stream:
                np.savez(stream, **{field.name: getattr(index, field.name) for field in fields(index)})
        except OSError as error:
            logger.warning("%s: the index of %s is kept in memory only (%s).", folder, key[0], error)

    def clear(self) -> None:
        """Forget all indexes in memory."""
        self._kept.clear()
        self._num_packets = 0

    def _keep(self, key: tuple, index: FrameIndex) -> None:
        if key in self._kept:
            self._num_packets -= len(self._kept.pop(key).size)
        self._kept[key] = index
        self._num_packets += len(index.size)
        while len(self._kept) > 1 and self._num_packets > self.max_packets:
            self._num_packets -= len(self._kept.popitem(last=False)[1].size)


def _key(path: str | os.PathLike) -> tuple:
    status = os.stat(path)
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


def _file(key: tuple, folder: str | os.PathLike) -> Path:
    return Path(folder, hashlib.sha256(repr(key).encode(errors="surrogateescape")).hexdigest() + ".npz")


def _load(file: Path) -> FrameIndex | None:
    """The index in a file; None where there is none, or a damaged one."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            index = FrameIndex(**{field.name: arrays[field.name] for field in fields(FrameIndex)})
        if {len(index.offset), len(index.time)} != {len(index.size)} or len(index.packets) != len(index.seconds):
            raise ValueError("arrays of different lengths")
        return index
    except FileNotFoundError:
        return None
    except (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged and written again (%s).", file, error)
        return None


INDEXES = IndexCache()
