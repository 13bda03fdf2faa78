"""Sweeps: configs trained with the same data, seed and number of steps."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from mmengine.config import Config

from toolkit.build import build_component, build_trainer
from toolkit.config import ConfigError, load_config
from toolkit.registry import QUANTIZERS
from toolkit.training.checkpoint import checkpoint_step, checkpoints_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """One config of a sweep."""

    name: str  # name of its row
    title: str
    source: str  # the config file
    config: Config  # resolved

    @property
    def work_dir(self) -> str:
        """Name of the work dir, unique for every config."""
        return f"{self.name}-{hashlib.sha256(self.config.pretty_text.encode()).hexdigest()[:10]}"


def variants_of(paths: list[Path], *, steps: int | None, overrides: Mapping[str, Any]) -> list[Variant]:
    """The variants, with data, seed and steps of the first config; the last variant is the first without quantizer."""
    if steps is not None:
        overrides = {**overrides, "training.max_steps": steps}
    configs = [load_config(path, overrides) for path in paths]
    for path, config in zip(paths, configs, strict=True):
        missing = [key for key in ("tokenizer", "objective", "data", "training") if key not in config]
        if missing:
            raise ConfigError(f"config {path} cannot be trained: it lacks {', '.join(missing)}.")
    first = configs[0]
    for path, config in zip(paths[1:], configs[1:], strict=True):
        if (config.data, config.get("seed", 0), config.training.max_steps) != (
                first.data, first.get("seed", 0), first.training.max_steps):
            logger.warning("%s trains on the data, with the seed and for the steps of %s.", path, paths[0])
        config.data, config.seed = copy.deepcopy(first.data), first.get("seed", 0)
        config.training.max_steps = first.training.max_steps
    types = [config.tokenizer.quantizer.type for config in configs]
    counts = Counter(types)
    variants = []
    for path, config, type_ in zip(paths, configs, types, strict=True):
        title = type_ if counts[type_] == 1 else Path(path).stem
        variants.append(Variant(title.lower(), title, str(path), config))
    unquantized = copy.deepcopy(first)
    dim = build_component(QUANTIZERS, first.tokenizer.quantizer).dim
    unquantized.tokenizer.quantizer = dict(type="Identity", dim=dim)
    variants.append(Variant("no_quantizer", f"{variants[0].title}'s network, no quantizer", str(paths[0]),
                            unquantized))
    return variants


def train(variant: Variant, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train a variant or resume its training; returns the directory of the tokenizer and a summary."""
    work_dir, steps = folder / variant.work_dir, variant.config.training.max_steps
    saved_steps = [checkpoint_step(path) for path in checkpoints_in(work_dir / "checkpoints")]
    source = Path(variant.source)
    config_path = source.relative_to(Path.cwd()) if source.is_relative_to(Path.cwd()) else source
    summary = {"config": str(config_path), "steps": steps, "seed": variant.config.get("seed", 0)}
    tokenizer = work_dir / "tokenizer"
    if saved_steps[-1:] == [steps] and (tokenizer / "model.safetensors").is_file():
        logger.info("%s is already trained: %s.", variant.title, tokenizer)
        return tokenizer, summary
    logger.info("training %s for %d steps in %s.", variant.title, steps, work_dir)
    AcceleratorState._reset_state()  # it keeps the precision of the previous variant
    trainer = build_trainer(copy.deepcopy(variant.config), work_dir=work_dir, resume=bool(saved_steps))
    if not trainer.run():
        raise KeyboardInterrupt
    return tokenizer, summary
