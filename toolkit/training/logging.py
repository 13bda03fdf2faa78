"""The log of a run: metrics.jsonl, experiment trackers, a progress bar, pictures."""

from __future__ import annotations

import functools
import io
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from einops import rearrange
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from toolkit.config import ConfigError
from toolkit.data import write_image, write_video
from toolkit.data.reading.transforms import to_frames
from toolkit.io.atomic_write import atomic_write
from toolkit.layers import mean_over_processes
from toolkit.metrics import Codebook
from toolkit.tokenizer import Tokenizer
from toolkit.training.settings import Settings

logger = logging.getLogger(__name__)

IndicesAndShape = tuple[Tensor | None, tuple[int, ...]]  # (B, *positions, num_codebooks) or None; the pixels' shape


class RunningMeans:
    """Running means of scalars since the last log line, and codebook scores since the last validation.

    Their state is in checkpoints, so the log of a resumed run equals that of an uninterrupted one.
    """

    def __init__(self, tokenizer: Tokenizer):
        # modality -> name of the scalar -> values
        self._scalars: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self._codebooks: dict[str, Codebook] = defaultdict(functools.partial(
            Codebook, codebook_size=tokenizer.codebook_size, num_codebooks=tokenizer.num_codebooks,
            digits=tokenizer.digits))

    def add(self, modality: str, scalars: Iterable[Mapping[str, Tensor]], *, indices: Iterable[IndicesAndShape],
            ) -> None:
        """Add the scalars, and the indices, of a step's micro-batches."""
        for losses in scalars:
            for name, value in losses.items():
                self._scalars[modality][name].append(value)
        for micro_indices, shape in indices:
            if micro_indices is not None:
                pixels = torch.empty(shape, device="meta")  # the metric uses only the shape
                self._codebooks[modality].update(target=pixels, reconstruction=pixels, indices=micro_indices)

    def means(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield (modality, name -> mean over steps and processes) since the last call; every process calls it."""
        for modality, scalars in self._scalars.items():
            means = torch.stack([torch.stack(values).mean().float() for values in scalars.values()])
            yield modality, dict(zip(scalars, mean_over_processes(means).tolist(), strict=True))
        self._scalars.clear()

    def codebook_scores(self) -> dict[str, dict[str, float]]:
        """modality -> codebook scores since the last call; every process calls it."""
        scores = {modality: codebook.compute() for modality, codebook in self._codebooks.items()}
        self._codebooks.clear()
        return scores

    def state_dict(self) -> dict[str, Any]:
        """State in types that load with ``weights_only``; "use" is that of the codebook scores."""
        return {"scalars": {modality: {name: [value.cpu() for value in values] for name, values in scalars.items()}
                            for modality, scalars in self._scalars.items()},
                "use": {modality: codebook.state_dict() for modality, codebook in self._codebooks.items()}}

    def load_state_dict(self, state: Mapping[str, Any], *, device: torch.device) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._scalars.clear()
        self._codebooks.clear()
        for modality, scalars in state["scalars"].items():
            for name, values in scalars.items():
                self._scalars[modality][name] = [value.to(device) for value in values]
        for modality, codebook in state["use"].items():
            self._codebooks[modality].load_state_dict(codebook)


def check_trackers(names: Sequence[str]) -> None:
    """Raise a ConfigError for a tracker that accelerate does not know or that is not installed."""
    if unknown := [name for name in names if name not in LOGGER_TYPE_TO_CLASS]:
        raise ConfigError(f"training.trackers must be among {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}, got "
                          f"{', '.join(map(repr, unknown))}.")
    installed = [str(name) for name in get_available_trackers()]
    if missing := [name for name in names if name not in installed]:
        raise ConfigError(f"training.trackers needs {', '.join(missing)}, which is not installed; pip install it, or "
                          f"choose from {', '.join(installed)}.")


def _pil_frames(pixels: Tensor) -> list[Image.Image]:
    """The frames of a clip (C, T, H, W) in [-1, 1]."""
    return [Image.fromarray(frame.numpy()) for frame in to_frames(pixels)]


def _add_clip(events: SummaryWriter, name: str, pixels: Tensor, step: int, *, fps: float) -> None:
    """Show a clip (C, T, H, W) in [-1, 1] in TensorBoard, as an animated GIF."""
    first, *rest = _pil_frames(pixels)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    picture = Summary.Image(height=pixels.shape[2], width=pixels.shape[3], colorspace=3,
                            encoded_image_string=buffer.getvalue())
    events._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=picture)]), step)


def _start_tracker(name: str, work_dir: Path, *, step: int) -> GeneralTracker:
    """Start a tracker: TensorBoard in ``work_dir/events``, Aim in ``work_dir``; others take its name as project."""
    tracker_class = LOGGER_TYPE_TO_CLASS[name]
    options = {"purge_step": step + 1} if name == "tensorboard" and step else {}
    tracker = (tracker_class("events", str(work_dir), **options) if tracker_class.requires_logging_directory
               else tracker_class(work_dir.resolve().name))
    tracker.start()
    return tracker


def _is_kept(line: str, step: int) -> bool:
    """Whether a line of metrics.jsonl can be read and its step is at most ``step``."""
    try:
        return json.loads(line)["step"] <= step
    except ValueError:
        logger.warning("metrics.jsonl: a damaged line is skipped: %s", line[:80])
        return False


class RunLog:
    """The log of a run. Its methods write only if it is ``active``, as on the main process.

    Lines of metrics.jsonl after ``step`` are dropped: a resumed run repeats those steps.
    """

    def __init__(self, work_dir: Path, settings: Settings, *, step: int, active: bool):
        self.work_dir, self.settings, self.active = work_dir, settings, active
        self.path, self.started = work_dir / "metrics.jsonl", time.time()
        if active:
            lines = self.path.read_text().splitlines() if step and self.path.exists() else []
            with atomic_write(self.path) as file:
                file.write_text("".join(line + "\n" for line in lines if _is_kept(line, step)))
        self.trackers = [_start_tracker(name, work_dir, step=step) for name in settings.trackers] if active else []
        self.bar = tqdm(total=settings.max_steps, initial=step, unit="step", dynamic_ncols=True, mininterval=0.5,
                        disable=not active)

    def advance(self) -> None:
        """Advance the progress bar by one step."""
        self.bar.update()

    def write_scalars(self, split: str, modality: str, step: int, values: dict[str, float]) -> None:
        """Write scalars of a modality under ``split``, "train" or "val"."""
        self._write({"step": step, "split": split, "modality": modality, **values})
        for tracker in self.trackers:
            tracker.log({f"{split}/{modality}/{name}": value for name, value in values.items()}, step=step)
        if split == "train" and "total" in values:  # not the scores of codebooks
            postfix = {name: f"{values[name]:.4f}" for name in ("reconstruction", "total") if name in values}
            self.bar.set_postfix(postfix, refresh=False)

    def write_skipped(self, modality: str, step: int, reason: str, keys: list[str]) -> None:
        """Write a line for a skipped step, with the keys of its suspect samples."""
        self._write({"step": step, "split": "skipped", "modality": modality, "reason": reason, "keys": keys})

    def _write(self, line: dict[str, Any]) -> None:
        if self.active:
            with self.path.open("a") as file:
                file.write(json.dumps(line | {"time": round(time.time() - self.started, 3)}) + "\n")

    def write_samples(self, name: str, step: int, target: Tensor, reconstruction: Tensor, *, fps: float = 12.0) -> None:
        """Write the first inputs above their reconstructions (B, C, T, H, W): the middle frame as PNG, clips as mp4."""
        if not self.active:
            return
        pair = torch.stack([clips[:self.settings.num_samples].cpu().float() for clips in (target, reconstruction)])
        pixels = rearrange(pair, "two b c t h w -> c t (two h) (b w)")
        folder = self.work_dir / "samples"
        folder.mkdir(exist_ok=True)
        middle = pixels[:, pixels.shape[1] // 2].unsqueeze(1)
        write_image(folder / f"{name}_step_{step}.png", middle)
        if pixels.shape[1] > 1:
            write_video(folder / f"{name}_step_{step}.mp4", pixels, fps=fps)
        for tracker in self.trackers:
            if tracker.name == "tensorboard":
                tracker.writer.add_image(f"samples/{name}", (middle[:, 0] + 1) / 2, step)
                if pixels.shape[1] > 1:
                    _add_clip(tracker.writer, f"samples/{name}_clip", pixels, step, fps=fps)
            elif tracker.name == "wandb":
                tracker.log_images({f"samples/{name}": _pil_frames(middle)}, step=step)

    def close(self) -> None:
        """Close the progress bar and the trackers."""
        self.bar.close()
        for tracker in self.trackers:
            tracker.finish()
