"""Protocols: how a score is measured, as data. Every field changes the score, so every field is in the hash."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PSNR, SSIM, MSSSIM, RFVD = ({"type": name} for name in ("PSNR", "SSIM", "MSSSIM", "RFVD"))
ALEX, VGG = ({"type": "LPIPS", "net": net} for net in ("alex", "vgg"))
RFID = {"type": "RFID", "value_type": "float"}  # values are rounded, or not, before any metric sees them
INCEPTION = {"type": "InceptionDistances", "value_type": "uint8"}
I3D, CODEBOOK = {"type": "VideoDistances"}, {"type": "Codebook"}
RESIZES = (
    "short edge, bicubic",  # with antialiasing, in 8 bits, as Pillow does
    "squash, bicubic",  # both sides, without regard to their ratio
    "short edge, Lanczos",
    "short edge, bilinear without antialiasing",  # OpenCV's
    "halve by box, then short edge, bicubic",  # ADM's crop
)


@dataclass(frozen=True)
class Protocol:
    """How a score is measured.

    Attributes:
        dataset, split: Names of the data.
        num_samples: Number of clips or images; scores over another number do not compare. None: all.
        size: Pixels of each side.
        metrics: Configs of the metrics.
        num_frames: T of a clip; 1 for images.
        frame_stride: Distance between the frames that are used.
        fps: Frame rate to sample at, instead of a stride: the nearest frames are used.
        resize: One of ``RESIZES``.
        crop: "centre" or "random", drawn once per sample and the same in every run.
        clip_choice: "spread": ``clips_per_video`` clips of each file, evenly spaced, a single one in the middle;
            "random": one drawn per sample, the same in every run; files repeat up to ``num_samples``.
        clips_per_video: For "spread".
        values: "float", or "uint8" to round reconstructions to 8 bits before the metrics.
        deviations: Known differences from the authors' own evaluation.

    Raises:
        ValueError: If a choice is unknown, or the numbers do not fit each other.
    """

    dataset: str
    split: str
    num_samples: int | None
    size: int
    metrics: tuple[dict[str, Any], ...]
    num_frames: int = 1
    frame_stride: int = 1
    fps: float | None = None
    resize: str = "short edge, bicubic"
    crop: str = "centre"
    clip_choice: str = "spread"
    clips_per_video: int = 1
    values: str = "float"
    deviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (("resize", RESIZES), ("crop", ("centre", "random")),
                            ("clip_choice", ("spread", "random")), ("values", ("float", "uint8"))):
            if getattr(self, name) not in known:
                raise ValueError(f"a protocol's {name} is one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if self.clip_choice == "random" and not self.num_samples:
            raise ValueError("a protocol that draws clips at random needs num_samples, how many.")

    @property
    def modality(self) -> str:
        """Modality of the samples."""
        return "video" if self.num_frames > 1 else "image"

    @property
    def hash(self) -> str:
        """12 hex digits of all fields."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        frames = f"{self.num_frames}x" if self.num_frames > 1 else ""
        return f"{self.dataset} {self.split}, {frames}{self.size}x{self.size}"


@dataclass(frozen=True)
class Suite:
    """A protocol, and the place of its data on this computer, which is not part of the protocol.

    Attributes:
        protocol: How scores are measured.
        path: Folder, list file or glob, relative to the working directory; None: the toolkit's sample clips.
        shown: Names (without ending) of the files whose reconstructions a report may show; empty: any.
        steps: Training steps of each variant of a sweep, unless the command sets them.
    """

    protocol: Protocol
    path: str | None
    shown: tuple[str, ...] = ()
    steps: int | None = None


def suite_names(folder: Path) -> list[str]:
    """Names of all suites of a folder."""
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def load_suite(name: str, folder: Path) -> Suite:
    """``SUITE`` of the file ``NAME.py`` in a folder, or of the file that ``name`` is the path of.

    Raises:
        ValueError: If there is no such file, or it defines no suite.
    """
    file = Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not file.is_file():
        if name.endswith(".py"):
            raise ValueError(f"no suite at {name}: there is no such file.")
        names = suite_names(folder)
        near = difflib.get_close_matches(name, names, n=1) or names
        raise ValueError(f"no suite is called {name!r}; did you mean {', '.join(near)}?")
    suite = runpy.run_path(str(file)).get("SUITE")
    if not isinstance(suite, Suite):
        raise ValueError(f"{name} needs SUITE, a toolkit.evaluation.protocol.Suite, got {suite!r}.")
    return suite
