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
    """How a score is measured; ValueError for an unknown choice.

    ``clip_choice`` "spread" uses ``clips_per_video`` clips of each file, evenly spaced, a single one in the middle.
    "random" draws one clip per sample, the same in every run; files repeat up to ``num_samples``.
    """

    dataset: str
    split: str
    num_samples: int | None  # clips or images; scores over another number do not compare; None: all
    size: int  # pixels of each side
    metrics: tuple[dict[str, Any], ...]  # configs
    num_frames: int = 1  # T of a clip; 1 for images
    frame_stride: int = 1  # distance between the frames that are used
    fps: float | None = None  # frame rate to sample at, instead of a stride: the nearest frames are used
    resize: str = "short edge, bicubic"  # one of RESIZES
    crop: str = "centre"  # or "random", drawn once per sample and the same in every run
    clip_choice: str = "spread"  # or "random"
    clips_per_video: int = 1  # for "spread"
    values: str = "float"  # or "uint8": reconstructions are rounded to 8 bits before the metrics
    deviations: tuple[str, ...] = ()  # known differences from the authors' own evaluation

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
    """A protocol, and the place of its data on this computer, which is not part of the protocol."""

    protocol: Protocol
    path: str | None  # folder, list file or glob, relative to the working directory; None: the sample clips
    shown: tuple[str, ...] = ()  # names (without ending) of the files that a report may show; empty: any
    steps: int | None = None  # training steps of each variant of a sweep, unless the command sets them


def suite_names(folder: Path) -> list[str]:
    """Names of all suites of a folder."""
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def load_suite(name: str, folder: Path) -> Suite:
    """``SUITE`` of the file ``NAME.py`` in a folder, or of the file that ``name`` is the path of."""
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
