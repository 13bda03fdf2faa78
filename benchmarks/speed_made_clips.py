"""Clips that SyntheticClips and PhotoClips make per second of processor time, on one thread after a warm-up."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from toolkit.contracts import Dataset
from toolkit.data import PhotoClips, SyntheticClips, write_image

SIZES = ((9, 32), (17, 128))  # frames, and their height and width
NUM_CLIPS = 16  # per round
HEADER = ["dataset", "T x H x W", "clips per core-second", "ns per pixel"]


def write_photos(folder: Path) -> str:
    """Write four pictures of 480 x 640."""
    pictures = SyntheticClips(num_frames=1, size=(480, 640))
    for number in range(4):
        write_image(folder / f"{number}.png", pictures[number]["pixels"])
    return str(folder)


def seconds(clips: Dataset, rounds: int) -> float:
    """Seconds of processor time per clip, the median over rounds. Each round makes the same clips."""
    measured = []
    for _ in range(rounds + 1):
        started = time.process_time()
        for number in range(NUM_CLIPS):
            clips[number % len(clips)]
        measured.append((time.process_time() - started) / NUM_CLIPS)
    return statistics.median(measured[1:])


def table(rounds: int) -> list[list[str]]:
    """A row for each dataset and size; photos are decoded in the warm-up."""
    rows, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = write_photos(Path(folder))
            for frames, side in SIZES:
                for clips in (SyntheticClips(num_frames=frames, size=side),
                              PhotoClips(path=path, num_frames=frames, size=side, short_edge=(side, 2 * side))):
                    print(f"{type(clips).__name__}, {frames}x{side}x{side}", file=sys.stderr)
                    each = seconds(clips, rounds)
                    rows.append([type(clips).__name__, f"{frames}x{side}x{side}", f"{1 / each:.3g}",
                                 f"{1e9 * each / (frames * side**2):.0f}"])
    finally:
        torch.set_num_threads(threads)
    return rows
