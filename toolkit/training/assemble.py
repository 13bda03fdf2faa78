"""From a config to a trainer, ready to run."""

from __future__ import annotations

import functools
import json
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from mmengine.config import Config

import toolkit
from toolkit.build import build_metrics, build_part, build_tokenizer, load_tokenizer, read_part_config
from toolkit.config import ConfigError, check_keys
from toolkit.contracts import Discriminator
from toolkit.data import Source, TrainLoader, ValLoader
from toolkit.data.files import written_whole
from toolkit.offers import distributions_of
from toolkit.registry import DATASETS, DISCRIMINATORS
from toolkit.tokenizer import Tokenizer
from toolkit.training.checkpoint import checkpoints_in
from toolkit.training.initialization import freeze_all_but, initialize, initialize_discriminators
from toolkit.training.objective import build_objective
from toolkit.training.processes import claim
from toolkit.training.settings import Settings
from toolkit.training.trainer import Trainer

logger = logging.getLogger(__name__)
NETWORK = "network.json"  # in the work dir: the tokenizer's config as data, where config.py is code


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The ``training`` section of a run's config, once the sections are there that a run needs.

    Raises:
        ConfigError: If one is missing or does not fit the others.

    Example:
        >>> from toolkit import load_config
        >>> read_settings(load_config("configs/demo_video.py")).max_steps
        2000
    """
    missing = [key for key in ("objective", "data", "training") if key not in config]
    if missing:
        raise ConfigError(f"training needs the config sections {', '.join(missing)}.")
    check_keys("data", config["data"], ("train", "val"))
    if bool(config.get("discriminator")) != bool(config["objective"].get("adversarial")):
        raise ConfigError("discriminator and objective.adversarial belong together: give both, or set both to None.")
    return Settings.from_config(config["training"])


def build_sources(where: str, config: Mapping[str, Any] | list[Mapping[str, Any]]) -> list[Source]:
    """Build the data of one split: one source, or a weighted mixture of several.

    Args:
        where: What the section is called in messages.
        config: ``dict(dataset=dict(type=...), batch_size=..., num_workers=..., weight=...)`` or a list of those.

    Raises:
        ConfigError: For keys that are not known or missing.
        DataError: If a dataset finds no files.

    Example:
        >>> clips = dict(type="VideoClips", num_frames=5, size=32)
        >>> [source.batch_size for source in build_sources("data.train", dict(dataset=clips, batch_size=2))]
        [2]
    """
    sections = [config] if isinstance(config, Mapping) else config
    if not isinstance(sections, list | tuple) or not all(isinstance(section, Mapping) for section in sections):
        raise ConfigError(f"{where} is dict(dataset=dict(type=...), batch_size=...) or a list of those, "
                          f"got {config!r}.")
    sources = []
    for section in sections:
        check_keys(where, section, ("dataset", "batch_size", "num_workers", "weight"))
        missing = [key for key in ("dataset", "batch_size") if key not in section]
        if missing:
            raise ConfigError(f"{where} needs {' and '.join(missing)}.")
        options = {key: value for key, value in section.items() if key != "dataset"}
        sources.append(Source(build_part(DATASETS, section["dataset"]), **options))
    return sources


def build_discriminators(config: Mapping[str, Any] | None, modalities: Iterable[str]) -> dict[str, Discriminator]:
    """Build a discriminator for each modality.

    Args:
        config: One discriminator's config, for a run on one modality; or modality -> config, where
            images and clips are of different sizes; or None.
        modalities: Those of the training data.

    Raises:
        ConfigError: If a modality has no discriminator, or several would share one config.

    Example:
        >>> small = dict(type="StyleGANDiscriminator", filters=8, channel_multipliers=(2,), size=(5, 16, 16))
        >>> list(build_discriminators(small, ["video"]))
        ['video']
    """
    modalities = sorted(set(modalities))
    if not config:
        return {}
    if not isinstance(config, Mapping):
        raise ConfigError(f"discriminator is dict(type=...), modality=dict(type=...) or None, got {config!r}.")
    if "type" in config:
        if len(modalities) > 1:
            raise ConfigError(f"data.train mixes {' and '.join(modalities)}, whose sizes differ; give each its "
                              "discriminator: discriminator=dict(image=dict(type=...), video=dict(type=...)).")
        config = {modalities[0]: config}
    missing = [modality for modality in modalities if not config.get(modality)]
    if missing:
        raise ConfigError(f"discriminator needs an entry for {' and '.join(missing)}, got {', '.join(config)}.")
    return {modality: build_part(DISCRIMINATORS, config[modality]) for modality in modalities}


def starting_tokenizer(config: Config, settings: Settings, *, resumed: Path | None = None) -> Tokenizer:
    """The tokenizer that training starts from, with the parts frozen that are not to learn.

    Args:
        config: Of the run.
        settings: Its training section.
        resumed: The work dir of a run that goes on, whose checkpoint has the weights: then only its network counts.

    Raises:
        ConfigError: If the config has neither a tokenizer nor one to start from, or they do not fit.
        ValueError: If the network that a run was resumed with is damaged.

    Example:
        >>> from toolkit import load_config
        >>> config = load_config("configs/demo_video.py", {"training.trainable": ["decoder"]})
        >>> tokenizer = starting_tokenizer(config, Settings.from_config(config.training))
        >>> any(parameter.requires_grad for parameter in tokenizer.encoder.parameters())
        False
    """
    if "tokenizer" not in config and not settings.init_from:
        raise ConfigError("training needs the config section tokenizer, or training.init_from=DIR to train on a "
                          "tokenizer that exists.")
    if resumed and "tokenizer" not in config:
        config.tokenizer = read_part_config(resumed / NETWORK)
    source = load_tokenizer(settings.init_from) if settings.init_from and not resumed else None
    if "tokenizer" in config:
        tokenizer = build_tokenizer(config.tokenizer)
        if source is not None:
            initialize(tokenizer, source)
    else:
        tokenizer = source
        config.tokenizer = source.config  # so that the run's saved config tells what it trained
    if settings.trainable is not None:
        freeze_all_but(tokenizer, settings.trainable)
    return tokenizer


def build_trainer(config: Config, *, work_dir: str | Path, resume: bool = False) -> Trainer:
    """Build everything a config describes, write the run's papers, and resume if asked.

    Args:
        config: From :func:`toolkit.load_config`.
        work_dir: Where the run is written.
        resume: Continue from the newest checkpoint in ``work_dir``.

    Raises:
        ConfigError: If the config does not hold together, or ``work_dir`` already holds a run that is
            not to be resumed.

    Example:
        >>> import tempfile
        >>> from toolkit import load_config
        >>> trainer = build_trainer(load_config("configs/demo_video.py"), work_dir=tempfile.mkdtemp())
        >>> trainer.step, trainer.settings.max_steps, sorted(path.name for path in trainer.work_dir.glob("[a-z]*"))
        (0, 2000, ['config.py', 'network.json', 'provenance.json'])
    """
    work_dir = Path(work_dir)
    settings = read_settings(config)
    seed = config.get("seed", 0)
    if not isinstance(seed, int):
        raise ConfigError(f"seed is a whole number, got {seed!r}.")
    if not resume and checkpoints_in(work_dir / "checkpoints"):
        raise ConfigError(f"{work_dir} already holds a run; add --resume to continue it, or give another --work-dir.")
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("training.mixed_precision='fp16' needs a GPU; a CPU trains in 'no' or 'bf16'.")
    set_seed(seed)
    goes_on = resume and bool(checkpoints_in(work_dir / "checkpoints"))
    tokenizer = starting_tokenizer(config, settings, resumed=work_dir if goes_on else None)
    metrics = config.get("metrics") or []
    build_metrics(metrics, tokenizer)  # now, lest a mistake in them ends the run at its first validation
    train, val = (build_sources(f"data.{split}", config.data.get(split)) for split in ("train", "val"))
    settings = settings.shared_out((s.batch_size for s in train), num_processes=accelerator.num_processes)
    modalities = sorted({source.dataset.modality for source in train})
    discriminators = build_discriminators(config.get("discriminator"), modalities)
    if settings.init_from and not goes_on:
        initialize_discriminators(discriminators.values(), settings.init_from)
    objective = build_objective(config.objective, quantizer=tokenizer.quantizer, modalities=tuple(modalities))
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes,
             "report": work_dir / "unreadable.txt", "pin_memory": accelerator.device.type == "cuda"}
    trainer = Trainer(
        tokenizer=tokenizer, objective=objective, discriminators=discriminators,
        train_loader=TrainLoader(train, seed=seed, draws_per_choice=settings.gradient_accumulation_steps,
                                 max_unreadable_share=settings.max_unreadable_share, **place),
        val_loader=ValLoader(val, **place), settings=settings, accelerator=accelerator, work_dir=work_dir,
        make_metrics=functools.partial(build_metrics, metrics))
    work_dir.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        trainer.claim = claim(work_dir)
    set_seed(seed, device_specific=True)  # weights are drawn alike by all processes, noise by each its own
    if resume:
        trainer.resume()
    if accelerator.is_main_process:
        with trainer.checkpoints.full_disk():
            _write_papers(trainer, config, seed=seed)
    return trainer


def train(config: Config, *, work_dir: str | Path, resume: bool = False) -> dict[str, Any] | None:
    """Do what a config describes, to the end: all of ``tools/train.py`` but its words.

    Args:
        config: From :func:`toolkit.load_config`.
        work_dir: Where the run is written.
        resume: Continue from the newest checkpoint in ``work_dir``.

    Returns:
        modality -> codec -> score name -> value: the tokenizer's, and those of untrained codecs. None if it was
        interrupted.

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
    # The networks hold the process group, whose threads abort a process that ends with them.
    del trainer
    accelerator.free_memory()
    accelerator.end_training()
    return results


def _write_papers(trainer: Trainer, config: Config, *, seed: int) -> None:
    """What the run is, beside its results; each file whole or not at all, as a run goes on from them."""
    saved = trainer.work_dir / "config.py"
    if trainer.step and saved.exists() and saved.read_text() != config.pretty_text:
        logger.warning("the config is not the one in %s, with which the run was going; it is replaced.", saved)
    for name, text in {saved.name: config.pretty_text,
                       NETWORK: json.dumps(trainer.tokenizer.plain.config, indent=2) + "\n",
                       "provenance.json": json.dumps(provenance(seed, trainer), indent=2) + "\n"}.items():
        with written_whole(trainer.work_dir / name) as part:
            part.write_text(text)


def _git_commit() -> str | None:
    """Of the checkout this package runs from, if it is one."""
    root = Path(toolkit.__file__).parent.parent
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None


def provenance(seed: int, trainer: Trainer) -> dict[str, Any]:
    """What produced a run: versions, plugins, commit, seed, command, hardware.

    Example:
        >>> import tempfile
        >>> from toolkit import load_config
        >>> trainer = build_trainer(load_config("configs/demo_video.py"), work_dir=tempfile.mkdtemp())
        >>> provenance(7, trainer)["seed"], provenance(7, trainer)["plugins"]
        (7, {})
    """
    networks = [trainer.tokenizer.plain, trainer.objective,
                *(network.plain for network in trainer.discriminators.values())]
    with torch.random.fork_rng(devices=[]):  # making metrics must not change what the run draws
        metrics = trainer.make_metrics(trainer.tokenizer.plain)
    parts = [*(module for network in networks for module in network.modules()), *metrics,
             *(source.dataset for source in [*trainer.train_loader.sources, *trainer.val_loader.sources])]
    device = trainer.accelerator.device
    return {"toolkit": toolkit.__version__, "torch": torch.__version__, "python": platform.python_version(),
            "plugins": distributions_of(map(type, parts)),
            "git_commit": _git_commit(), "seed": seed, "command": sys.argv,
            "num_processes": trainer.accelerator.num_processes,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or device.type,
            "num_threads": torch.get_num_threads()}
