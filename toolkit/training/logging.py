"""What a run writes down: metrics.jsonl, TensorBoard events, a progress bar, pictures."""

from __future__ import annotations

import io
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from toolkit.data import write_image, write_video
from toolkit.io.atomic_write import atomic_write

logger = logging.getLogger(__name__)


def above(target: Tensor, reconstruction: Tensor) -> Tensor:
    """Clips (B, C, T, H, W) and their reconstructions -> (C, T, 2 H, B W): input above output.

    Example:
        >>> above(torch.zeros(3, 3, 5, 8, 8), torch.zeros(3, 3, 5, 8, 8)).shape
        torch.Size([3, 5, 16, 24])
    """
    pair = torch.stack([target, reconstruction.to(target.dtype).clamp(-1, 1)])
    return rearrange(pair, "two b c t h w -> c t (two h) (b w)")


def as_gif(pixels: Tensor, fps: float) -> bytes:
    """A clip (C, T, H, W) in [-1, 1] as an animated GIF, which TensorBoard plays.

    Example:
        >>> as_gif(torch.zeros(3, 2, 8, 8), fps=8.0)[:6]
        b'GIF89a'
    """
    frames = rearrange(((pixels + 1) * 127.5).round().to(torch.uint8).cpu(), "c t h w -> t h w c").numpy()
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return buffer.getvalue()


def _is_kept(line: str, step: int) -> bool:
    """Whether a line of metrics.jsonl is whole and of a step up to ``step``."""
    try:
        return json.loads(line)["step"] <= step
    except ValueError:
        logger.warning("metrics.jsonl: a torn line is left out: %s", line[:80])
        return False


class RunLog:
    """The record of one run, kept by the main process; on the others every method does nothing.

    Args:
        work_dir: Where ``metrics.jsonl``, the events and ``samples/`` go.
        step: Steps already taken: later lines of an earlier attempt are cut.
        max_steps: Steps of the whole run.
        active: Whether this process keeps the record.

    Example:
        >>> import tempfile
        >>> log = RunLog(Path(tempfile.mkdtemp()), step=0, max_steps=1, active=True)
        >>> log.scalars("train", "video", 1, {"reconstruction": 0.5}); log.close()
        >>> json.loads(log.path.read_text())["reconstruction"]
        0.5
    """

    def __init__(self, work_dir: Path, *, step: int, max_steps: int, active: bool):
        self.work_dir, self.active = work_dir, active
        if not active:
            return
        self.path = work_dir / "metrics.jsonl"
        lines = self.path.read_text().splitlines() if step and self.path.exists() else []
        with atomic_write(self.path) as part:
            part.write_text("".join(line + "\n" for line in lines if _is_kept(line, step)))
        self.events = SummaryWriter(str(work_dir / "events"), purge_step=step + 1 if step else None)
        self.bar = tqdm(total=max_steps, initial=step, unit="step", dynamic_ncols=True, mininterval=0.5)
        self.started = time.time()

    def advance(self) -> None:
        """One optimizer step is done."""
        if self.active:
            self.bar.update()

    def scalars(self, split: str, modality: str, step: int, values: dict[str, float]) -> None:
        """Write scalars of a modality under ``split``, "train" or "val"."""
        if not self.active:
            return
        self._write({"step": step, "split": split, "modality": modality, **values})
        for name, value in values.items():
            self.events.add_scalar(f"{split}/{modality}/{name}", value, step)
        if split == "train":
            shown = {name: f"{values[name]:.4f}" for name in ("reconstruction", "total") if name in values}
            self.bar.set_postfix(shown, refresh=False)

    def skipped(self, modality: str, step: int, reason: str, keys: list[str]) -> None:
        """Write that a step was left out, and the keys of its samples."""
        if self.active:
            self._write({"step": step, "split": "skipped", "modality": modality, "reason": reason, "keys": keys})

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line | {"time": round(time.time() - self.started, 3)}) + "\n")

    def samples(self, name: str, step: int, target: Tensor, reconstruction: Tensor, *, fps: float = 12.0) -> None:
        """Write inputs above reconstructions, both (B, C, T, H, W): a PNG, for clips also an mp4."""
        if not self.active:
            return
        pixels = above(target.cpu(), reconstruction.cpu())
        folder = self.work_dir / "samples"
        folder.mkdir(exist_ok=True)
        middle = pixels[:, pixels.shape[1] // 2].unsqueeze(1)
        write_image(folder / f"{name}_step_{step}.png", middle)
        self.events.add_image(f"samples/{name}", (middle[:, 0] + 1) / 2, step)
        if pixels.shape[1] > 1:
            write_video(folder / f"{name}_step_{step}.mp4", pixels, fps=fps)
            picture = Summary.Image(height=pixels.shape[2], width=pixels.shape[3], colorspace=3,
                                    encoded_image_string=as_gif(pixels, fps))
            self.events._get_file_writer().add_summary(
                Summary(value=[Summary.Value(tag=f"samples/{name}_clip", image=picture)]), step)

    def close(self) -> None:
        """Finish the bar and flush the events."""
        if self.active:
            self.bar.close()
            self.events.close()
