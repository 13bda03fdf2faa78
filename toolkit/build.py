"""From configs to objects: the only module that builds what a config describes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from mmengine.config import Config

from toolkit import contracts
from toolkit.config import TOP_LEVEL, ConfigError, check_keys
from toolkit.data import Source, TrainLoader, ValLoader
from toolkit.profiling.training_flops import settings_within_budget
from toolkit.registry import DATASETS, DECODERS, DISCRIMINATORS, ENCODERS, LOSSES, METRICS, QUANTIZERS, Registry
from toolkit.saving import find_tokenizer, load_component, read_component_config
from toolkit.tokenizer import Tokenizer
from toolkit.training.checkpoint import checkpoints_in
from toolkit.training.initialization import freeze_all_but, initialize, initialize_discriminators
from toolkit.training.logging import check_trackers
from toolkit.training.objective import AdversarialTerms, LeCAM, Objective, merged_quantizer_weights
from toolkit.training.run_dir import NETWORK_FILE, lock_work_dir, write_run_metadata
from toolkit.training.settings import Settings
from toolkit.training.trainer import RunComponents, Trainer

logger = logging.getLogger(__name__)


def build_component(registry: Registry, config: Mapping[str, Any], **defaults: Any) -> Any:
    """Build a component and its nested components; arguments in the config override ``defaults``.

    Arguments with a ``type``, also in lists, are built first, from the same registry.
    """
    def child(value: Any) -> Any:
        if isinstance(value, Mapping) and "type" in value:
            return build_component(registry, value)
        if isinstance(value, list | tuple):
            return type(value)(child(item) for item in value)
        return value

    if not isinstance(config, Mapping):
        return registry.build(config)  # its error message shows what a config looks like
    return registry.build(defaults | {key: child(value) for key, value in config.items()})


def build_tokenizer(config: Mapping[str, Any]) -> Tokenizer:
    """Build a tokenizer from ``dict(encoder=..., quantizer=..., decoder=...)``.

    The quantizer comes first: its ``dim`` becomes the encoder's ``out_channels`` and the decoder's
    ``in_channels`` where the config does not state them.

    Raises:
        ConfigError: If a component is missing or there is another key.

    Example:
        >>> from toolkit import load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer)
        >>> tokenizer.encoder.out_channels == tokenizer.quantizer.dim == tokenizer.decoder.in_channels
        True
    """
    keys = ("encoder", "quantizer", "decoder")
    check_keys("tokenizer", config, keys, required=keys)
    quantizer = build_component(QUANTIZERS, config["quantizer"])
    encoder = build_component(ENCODERS, config["encoder"], out_channels=quantizer.dim)
    decoder = build_component(DECODERS, config["decoder"], in_channels=quantizer.dim)
    return Tokenizer(encoder, quantizer, decoder)


def build_metrics(configs: list[Mapping[str, Any]], tokenizer: Tokenizer) -> list[contracts.Metric]:
    """Build metrics; the arguments codebook_size, num_codebooks and digits default to the tokenizer's.

    Without a codebook, metrics that take a codebook_size are skipped unless their config sets it; the log names them.
    """
    metrics = []
    for config in configs:
        is_component = isinstance(config, Mapping) and "type" in config  # build_component refuses others
        arguments = contracts.constructor_parameters(METRICS.get(config["type"])) if is_component else {}
        if "codebook_size" in arguments and not tokenizer.codebook_size and "codebook_size" not in config:
            logger.info("metric %s is skipped: there is no codebook.", config["type"])
            continue
        defaults = {key: getattr(tokenizer, key) for key in ("codebook_size", "num_codebooks", "digits")
                    if key in arguments}
        metrics.append(build_component(METRICS, config, **defaults))
    for one, other in itertools.combinations(metrics, 2):
        if shared := [score for score in one.higher_is_better if score in other.higher_is_better]:
            raise ConfigError(f"two metrics compute the score {shared[0]!r}: {type(one).__name__} and "
                              f"{type(other).__name__}; remove one of them.")
    return metrics


def load_tokenizer(path: str | Path, *, revision: str | None = None, subfolder: str | None = None,
                   token: str | bool | None = None) -> Tokenizer:
    """Load a tokenizer written by ``save_pretrained``, in eval mode, on the CPU.

    Nothing in the files is executed: the config is JSON, the weights are safetensors, and only registered components
    are built. A config whose tensors exceed the weights file is rejected.

    Args:
        path: Its directory (``~`` is the home folder), one of its two files, a Hugging Face hub id (``user/name``), or
            the name of a shipped tokenizer, one of :func:`toolkit.shipped_tokenizers`. ``./name`` and ``Path("name")``
            are folders.
        revision: Of a hub id: a branch, a tag or a commit. The tokenizer's ``source.commit`` is the commit loaded.
        subfolder: The folder of the tokenizer within ``path``, such as "tokenizer".
        token: For a private or gated hub id; see ``huggingface_hub.snapshot_download``.

    Raises:
        FileNotFoundError: If there is no such directory, file, hub repository, revision or subfolder, or a token is
            needed.
        UnknownComponentError: If the config names a component that neither this package nor a plugin has.
        PluginError: If a component's plugin cannot be used.
        TypeError: If a component does not take its arguments.
        ValueError: If a file is damaged, weights and config do not fit each other, a local folder is given with a
            revision or token, a shipped name with either or a subfolder, or a name could mean a shipped tokenizer or
            a folder in the working directory.

    Example:
        >>> load_tokenizer("no/such/place/at/all")
        Traceback (most recent call last):
        FileNotFoundError: no tokenizer at no/such/place/at/all: it is no directory with config.json and ...
    """
    source = find_tokenizer(path, revision=revision, subfolder=subfolder, token=token)
    tokenizer = load_component(source.directory, f"tokenizer {path}", build_tokenizer)
    tokenizer.source = source
    return tokenizer


def load_discriminator(directory: str | Path) -> contracts.Discriminator:
    """Load a discriminator written by ``save_component``, in eval mode, on the CPU; raises as load_tokenizer does."""
    return load_component(Path(directory), f"discriminator {directory}",
                          functools.partial(build_component, DISCRIMINATORS))


def build_objective(config: Mapping[str, Any], *, quantizer: contracts.Quantizer | None = None,
                    modalities: tuple[str, ...] = ("video",)) -> Objective:
    """Build the objective from its config.

    Args:
        config: ``losses`` (name -> ``dict(loss=dict(type=...), weight=...)``), ``adversarial``
            (``dict(loss=..., weight=..., adaptive=dict(type=...), discriminator_weight=...,
            lecam=dict(weight=..., ...), r1=dict(weight=..., every=...))``) and ``quantizer``
            (``dict(LOSS=weight, TYPE=dict(LOSS=weight))``). A weight is a number or a schedule. None removes a term.
        quantizer: Its ``loss_weights`` are the default weights of ``config["quantizer"]``.
        modalities: Each gets its own :class:`AdversarialTerms` with its own LeCAM averages.

    Raises:
        ConfigError: For unknown keys, a missing weight, or an adaptive weight without losses on the reconstruction.

    Example:
        >>> objective = build_objective(dict(losses=dict(pixels=dict(loss=dict(type="L1"), weight=1.0))))
        >>> list(objective.losses), list(objective.adversaries)
        (['pixels'], [])
    """
    check_keys("objective", config, ("losses", "adversarial", "quantizer"))
    losses = {}
    for name, term in (config.get("losses") or {}).items():
        if term:
            check_keys(f"objective.losses.{name}", term, ("loss", "weight"), required=("loss", "weight"))
            losses[name] = _build_loss(f"objective.losses.{name}.loss", term["loss"], contracts.Loss), term["weight"]
    adversarial = config.get("adversarial")
    if adversarial and adversarial.get("adaptive") and not losses:
        raise ConfigError("objective.adversarial.adaptive needs a loss on the reconstruction to compare with, got "
                          "none; add one to objective.losses, or set adaptive=None.")
    adversaries = {modality: _build_adversarial_terms(adversarial) for modality in modalities if adversarial}
    return Objective(losses=losses, adversaries=adversaries,
                     quantizer_weights=merged_quantizer_weights(config.get("quantizer") or {}, quantizer))


def _build_loss(section: str, config: Mapping[str, Any], kind: type) -> Any:
    loss = build_component(LOSSES, config)
    if not isinstance(loss, kind):
        raise ConfigError(f"{section} takes a {kind.__name__}, got {type(loss).__name__}.")
    return loss


def _build_adversarial_terms(config: Mapping[str, Any]) -> AdversarialTerms:
    check_keys("objective.adversarial", config,
               ("loss", "weight", "adaptive", "discriminator_weight", "lecam", "r1"), required=("loss",))
    lecam, r1 = dict(config.get("lecam") or {}), dict(config.get("r1") or {})
    check_keys("objective.adversarial.lecam", lecam, ("weight", "decay", "per_logit"))
    check_keys("objective.adversarial.r1", r1, ("weight", "every"))
    lecam_weight = lecam.pop("weight", 0.0)  # the other keys are LeCAM's arguments
    every, adaptive = r1.get("every", 1), config.get("adaptive")
    if not isinstance(every, int) or every < 1:
        raise ConfigError(f"objective.adversarial.r1.every must be a whole number of at least 1, got {every!r}.")
    return AdversarialTerms(
        _build_loss("objective.adversarial.loss", config["loss"], contracts.AdversarialLoss),
        adaptive=(_build_loss("objective.adversarial.adaptive", adaptive, contracts.GeneratorWeight) if adaptive
                  else None),
        lecam=LeCAM(**lecam) if lecam_weight else None, lecam_weight=lecam_weight,
        r1_weight=r1.get("weight", 0.0), r1_every=every,
        **{key: config[key] for key in ("weight", "discriminator_weight") if key in config})


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Check the sections of a run's config; returns the ``training`` section as Settings."""
    check_keys("the config of a run", dict(config), TOP_LEVEL, required=("objective", "data", "training"))
    check_keys("data", config["data"], ("train", "val"))
    if bool(config.get("discriminator")) != bool(config["objective"].get("adversarial")):
        raise ConfigError("discriminator and objective.adversarial belong together: give both, or set both to None.")
    return Settings.from_config(config["training"])


def build_sources(section: str, config: Mapping[str, Any] | list[Mapping[str, Any]]) -> list[Source]:
    """Build the sources of one split from a config or a list of configs (a mixture); messages call it ``section``."""
    sources = []
    for source in config if isinstance(config, list | tuple) else [config]:
        check_keys(section, source, ("dataset", "batch_size", "num_workers", "weight"),
                   required=("dataset", "batch_size"))
        paths = source["dataset"].get("path") if isinstance(source["dataset"], Mapping) else None
        for path in paths if isinstance(paths, list | tuple) else [paths]:
            if isinstance(path, bool | int | float):
                raise ConfigError(f"{section}.dataset.path is text, or a list of texts, got {path!r}; quote it: "
                                  f"path={str(path)!r}, after --cfg-options \"{section}.dataset.path='{path}'\".")
        options = {key: value for key, value in source.items() if key != "dataset"}
        sources.append(Source(build_component(DATASETS, source["dataset"]), **options))
    return sources


def build_discriminators(config: Mapping[str, Any] | None, modalities: Sequence[str],
                         ) -> dict[str, contracts.Discriminator]:
    """Build one discriminator per modality; ``config`` is a discriminator's, a dict modality -> config, or None."""
    if not config:
        return {}
    if not isinstance(config, Mapping):
        raise ConfigError(f"discriminator is dict(type=...), modality=dict(type=...) or None, got {config!r}.")
    if "type" in config:
        if len(modalities) > 1:
            raise ConfigError(f"data.train mixes {' and '.join(modalities)}; set one discriminator for each: "
                              "discriminator=dict(image=dict(type=...), video=dict(type=...)).")
        config = {modalities[0]: config}
    missing = [modality for modality in modalities if not config.get(modality)]
    if missing:
        raise ConfigError(f"discriminator needs an entry for {' and '.join(missing)}, got {', '.join(config)}.")
    return {modality: build_component(DISCRIMINATORS, config[modality]) for modality in modalities}


def initial_tokenizer(config: Config, settings: Settings, *, resumed: Path | None, weights: bool) -> Tokenizer:
    """Build the tokenizer of a run, freeze all but the ``trainable`` modules, and set a missing ``config.tokenizer``.

    ``init_from`` weights are unused without ``weights``, or if a checkpoint in the work dir ``resumed`` replaces them.
    """
    if "tokenizer" not in config and not settings.init_from:
        raise ConfigError("training needs the config section tokenizer, or training.init_from=DIR to start from "
                          "an existing tokenizer.")
    if resumed and "tokenizer" not in config:
        config.tokenizer = read_component_config(resumed / NETWORK_FILE)
    source = None
    if settings.init_from and not resumed and (weights or "tokenizer" not in config):
        source = load_tokenizer(settings.init_from, revision=settings.init_revision, subfolder=settings.init_subfolder)
    if "tokenizer" in config:
        tokenizer = build_tokenizer(config.tokenizer)
        if source is not None:
            initialize(tokenizer, source)
            tokenizer.source = source.source
    else:
        tokenizer, config.tokenizer = source, source.config  # the run's saved config shows what it trained
    if settings.trainable is not None:
        freeze_all_but(tokenizer, settings.trainable)
    return tokenizer


@contextlib.contextmanager
def _without_weights() -> Iterator[None]:
    """Context that puts networks on the meta device, without the warnings of their initialization."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.filterwarnings("ignore", message="Initializing zero-element|for .* copying from a non-meta")
        yield


def build_run(config: Config, *, num_processes: int, resumed: Path | None = None, weights: bool = True,
              ) -> RunComponents:
    """Build the components of a run of ``num_processes`` processes.

    The settings have the number of micro-batches that ``training.global_batch_size`` needs, and the number of steps
    within ``training.max_flops``. ``resumed`` is the work dir of a run to resume. Without ``weights`` the networks are
    on the meta device, and ``training.init_from`` is read only if the config has no tokenizer.

    Raises:
        ConfigError: If the config is inconsistent.
        DataError: If a dataset finds no files.
    """
    settings = read_settings(config)
    train, val = (build_sources(f"data.{split}", config.data.get(split)) for split in ("train", "val"))
    settings = settings.with_micro_batches((source.batch_size for source in train), num_processes=num_processes)
    modalities = tuple(sorted({source.dataset.modality for source in train}))
    with contextlib.nullcontext() if weights else _without_weights():
        tokenizer = initial_tokenizer(config, settings, resumed=resumed, weights=weights)
        discriminators = build_discriminators(config.get("discriminator"), modalities)
    make_metrics = functools.partial(build_metrics, config.get("metrics") or [])
    make_metrics(tokenizer)  # errors of metrics must appear before training
    objective = build_objective(config.objective, quantizer=tokenizer.quantizer, modalities=modalities)
    run = RunComponents(settings=settings, tokenizer=tokenizer, objective=objective, discriminators=discriminators,
                        train=train, val=val, make_metrics=make_metrics)
    return dataclasses.replace(run, settings=settings_within_budget(run, num_processes=num_processes))


def build_trainer(config: Config, *, work_dir: str | Path, resume: bool = False) -> Trainer:
    """Build everything a config describes, and write the run's metadata to ``work_dir``.

    With ``resume`` the run continues from the newest readable checkpoint in ``work_dir``.

    Raises:
        ConfigError: If the config is inconsistent, or ``work_dir`` holds a run that is not to be resumed.
    """
    work_dir = Path(work_dir)
    settings = read_settings(config)
    check_trackers(settings.trackers)
    seed = config.get("seed", 0)
    if not isinstance(seed, int):
        raise ConfigError(f"seed is a whole number, got {seed!r}.")
    has_checkpoints = bool(checkpoints_in(work_dir / "checkpoints"))
    if has_checkpoints and not resume:
        raise ConfigError(f"{work_dir} already holds a run; add --resume to continue it, or give another --work-dir.")
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("training.mixed_precision='fp16' needs a GPU; a CPU trains in 'no' or 'bf16'.")
    set_seed(seed)
    run = build_run(config, num_processes=accelerator.num_processes, resumed=work_dir if has_checkpoints else None)
    source = run.tokenizer.source  # of training.init_from
    if source is not None and source.repo is None and run.discriminators:
        folder = source.directory / "discriminator"  # beside the tokenizer of a converted checkpoint
        if folder.is_dir():
            initialize_discriminators(run.discriminators.values(), load_discriminator(folder), name=str(folder))
    loader_options = {"rank": accelerator.process_index, "world_size": accelerator.num_processes,
                      "report": work_dir / "unreadable.txt", "pin_memory": accelerator.device.type == "cuda"}
    train_loader = TrainLoader(run.train, seed=seed, batches_per_choice=run.settings.gradient_accumulation_steps,
                               max_unreadable_share=settings.max_unreadable_share, **loader_options)
    trainer = Trainer(run, train_loader=train_loader, val_loader=ValLoader(run.val, **loader_options),
                      accelerator=accelerator, work_dir=work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        trainer.lock = lock_work_dir(work_dir)
    set_seed(seed, device_specific=True)  # noise differs between processes; the weights above are equal
    if resume:
        trainer.resume()
    if accelerator.is_main_process:
        with trainer.checkpoints.explaining_full_disk():
            write_run_metadata(trainer, config, seed=seed)
    return trainer
