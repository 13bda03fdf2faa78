"""Training from a config, from its first step to its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from toolkit.build import build_trainer


def train(config: Config, *, work_dir: str | Path, resume: bool = False) -> dict[str, Any] | None:
    """Train from a config to the scores, as ``tools/train.py`` does; arguments as of :func:`build_trainer`.

    Returns modality -> codec -> score name -> value: the tokenizer's and those of untrained codecs. None if the run
    was interrupted.

    Raises:
        ConfigError: As of :func:`build_trainer`.
        DataError: If data cannot be read.
        DivergenceError: If too many steps in a row are not finite.
        OSError: If the disk is full.

    Example:
        >>> import tempfile
        >>> from toolkit import load_config
        >>> small = {"training.max_steps": 1, "data.train.batch_size": 1, "data.train.num_workers": 0,
        ...          "data.val.dataset.num_frames": 1, "data.val.dataset.clips_per_video": 1}
        >>> list(train(load_config("configs/demo_video.py", small), work_dir=tempfile.mkdtemp())["video"])
        ['tokenizer', 'thumbnail', 'mean colour']
    """
    trainer = build_trainer(config, work_dir=work_dir, resume=resume)
    results = trainer.compare() if trainer.run() else None
    accelerator = trainer.accelerator
    del trainer  # its networks hold the process group, whose threads would abort the process at its end
    accelerator.free_memory()
    accelerator.end_training()
    return results
