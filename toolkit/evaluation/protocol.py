"""Protocols: every setting that a score depends on. All fields are in the hash."""

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
RFID = {"type": "RFID", "value_type": "float"}  # the metric does not round; ``values="uint8"`` rounds before it
INCEPTION = {"type": "InceptionDistances", "value_type": "uint8"}
I3D, CODEBOOK = {"type": "VideoDistances"}, {"type": "Codebook"}
RESIZES = (
    "short edge, bicubic",  # with antialiasing, in 8 bits, as Pillow does
    "squash, bicubic",  # both sides; the aspect ratio changes
    "short edge, Lanczos",
    "short edge, bilinear without antialiasing",  # OpenCV's
    "halve by box, then short edge, bicubic",  # ADM's crop
)


def json_hash(value: Any) -> str:
    """sha256 of a value as JSON, in hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Protocol:
    """How a score is measured. An unknown choice raises a ValueError.

    ``clip_choice`` "spread" uses ``clips_per_video`` evenly spaced clips of each file; a single clip is in the middle.
    "random" chooses one random clip per sample, the same in every run; files repeat up to ``num_samples``.
    """

    dataset: str
    split: str
    num_samples: int | None  # clips or images, None: all; scores of different numbers are not comparable
    size: int  # pixels of each side
    metrics: tuple[dict[str, Any], ...]  # configs
    num_frames: int = 1  # T of a clip; 1 for images
    frame_stride: int = 1  # distance between the frames that are used
    fps: float | None = None  # frame rate instead of a stride; the nearest frames are used
    resize: str = "short edge, bicubic"  # one of RESIZES
    crop: str = "centre"  # or "random", one per sample, the same in every run
    clip_choice: str = "spread"  # or "random"
    clips_per_video: int = 1  # for "spread"
    values: str = "float"  # or "uint8": reconstructions are rounded to 8 bits before the metrics
    deviations: tuple[str, ...] = ()  # known differences from the authors' own evaluation

    def __post_init__(self) -> None:
        for name, choices in (("resize", RESIZES), ("crop", ("centre", "random")),
                            ("clip_choice", ("spread", "random")), ("values", ("float", "uint8"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"a protocol's {name} must be one of {', '.join(choices)}, got "
                                 f"{getattr(self, name)!r}.")
        if self.clip_choice == "random" and not self.num_samples:
            raise ValueError("a protocol with clip_choice='random' needs num_samples, the number of clips.")

    @property
    def modality(self) -> str:
        """Modality of the samples."""
        return "video" if self.num_frames > 1 else "image"

    @property
    def sample_size(self) -> tuple[int, int, int]:
        """(T, H, W) of the samples."""
        return self.num_frames, self.size, self.size

    @property
    def hash(self) -> str:
        """12 hex digits of all fields."""
        return json_hash(dataclasses.asdict(self))[:12]

    def __str__(self) -> str:
        frames = f"{self.num_frames}x" if self.num_frames > 1 else ""
        return f"{self.dataset} {self.split}, {frames}{self.size}x{self.size}"


@dataclass(frozen=True)
class Suite:
    """A protocol, and settings that are not in its hash, such as the path of the data."""

    protocol: Protocol
    path: str | None  # folder, list file or glob, relative to the working directory; None: the sample clips
    shown: tuple[str, ...] = ()  # stems of the files whose videos a report may show; empty: any file
    steps: int | None = None  # training steps of each variant of a sweep, unless the command sets them


def suite_names(folder: Path) -> list[str]:
    """Names of all suites of a folder."""
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def load_suite(name: str, folder: Path) -> Suite:
    """``SUITE`` of the file ``folder/NAME.py``, or of the file ``name`` if it ends in ".py"."""
    return load_variable(find_file(name, folder, kind="suite"), "SUITE", Suite)


def find_file(name: str, folder: Path, *, kind: str) -> Path:
    """The file ``folder/NAME.py``, or the file ``name`` if it ends in ".py"; errors call it a ``kind``."""
    file = Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not file.is_file():
        if name.endswith(".py"):
            raise ValueError(f"no {kind} at {name}: there is no such file.")
        names = suite_names(folder)
        near = difflib.get_close_matches(name, names, n=1) or names
        raise ValueError(f"no {kind} is called {name!r}; did you mean {', '.join(near)}?")
    return file


def load_variable(file: Path, name: str, type_: type) -> Any:
    """A variable of a Python file, which is executed."""
    value = runpy.run_path(str(file)).get(name)
    if not isinstance(value, type_):
        raise ValueError(f"{file} needs {name}, a {type_.__module__}.{type_.__name__}, got {value!r}.")
    return value
