"""How a score is measured, as data: every field of it changes the score, so every field is in its hash."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
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
SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class Protocol:
    """How a score is measured.

    Attributes:
        dataset, split: Which data, and which part of it.
        num_samples: Clips or images; scores over another number do not compare. None: as many as there are.
        size: Pixels of each side.
        metrics: Their configs.
        num_frames: T of a clip; 1 for images.
        frame_stride: Every so many-th frame of a file.
        fps: Or the frames nearest to this rate's moments.
        resize: One of ``RESIZES``.
        crop: "centre" or "random", drawn once per sample and the same in every run.
        clip_choice: "spread": ``clips_per_video`` of each file, from its first frame to its last, a single one in
            the middle; "random": one drawn per sample, the same in every run, files repeated up to ``num_samples``.
        clips_per_video: Of "spread".
        values: What the metrics are given of a reconstruction: "float", or "uint8" for one rounded to 8 bits.
        deviations: Where this is known to differ from the authors' own evaluation.

    Raises:
        ValueError: If there is no such choice, or the numbers do not fit each other.
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
        """Of its samples."""
        return "video" if self.num_frames > 1 else "image"

    @property
    def hash(self) -> str:
        """12 hex digits that any change of a field changes."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        frames = f"{self.num_frames}x" if self.num_frames > 1 else ""
        return f"{self.dataset} {self.split}, {frames}{self.size}x{self.size}"


@dataclass(frozen=True)
class Suite:
    """A protocol and where its data lies on this computer, which is no part of it.

    Attributes:
        protocol: How scores are measured.
        path: Folder, list file or glob, relative to the working directory; None: the toolkit's sample clips.
        shown: Names of the files (without endings) whose reconstructions a report may show; empty: of any.
        steps: Of each variant in a sweep, where the command does not say.
    """

    protocol: Protocol
    path: str | None
    shown: tuple[str, ...] = ()
    steps: int | None = None


def suite_names() -> list[str]:
    """Of all suites."""
    return sorted(path.stem for path in SUITES.glob("[!_]*.py"))


def load_suite(name: str) -> Suite:
    """``SUITE`` of ``suites/NAME.py``, or of a file that is named with its ending.

    Raises:
        ValueError: If there is no such file, or it has none.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"no suite at {name}: there is no such file.")
        suite = runpy.run_path(name).get("SUITE")
        if not isinstance(suite, Suite):
            raise ValueError(f"{name} needs SUITE, a protocol.Suite, got {suite!r}.")
        return suite
    names = suite_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1) or names
        raise ValueError(f"no suite is called {name!r}; did you mean {', '.join(near)}?")
    return importlib.import_module(f"suites.{name}").SUITE
