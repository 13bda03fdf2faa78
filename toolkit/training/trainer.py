"""The training loop."""

from __future__ import annotations

import contextlib
import functools
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import nn

from toolkit.config import ConfigError
from toolkit.contracts import Discriminator, Metric
from toolkit.data import Batch, Source, TrainLoader, ValLoader
from toolkit.layers.distributed import any_process
from toolkit.metrics import collapse_of
from toolkit.tokenizer import Tokenizer
from toolkit.training import checkpoint
from toolkit.training.logging import IndicesAndShape, RunLog, RunningMeans
from toolkit.training.nonfinite import DivergenceError, FiniteCheck
from toolkit.training.objective import Objective, Scalars
from toolkit.training.optimizer import OptimizerState
from toolkit.training.run_dir import catch_interrupts
from toolkit.training.settings import Settings
from toolkit.training.step import discriminator_pass, prepare_step, tokenizer_pass
from toolkit.training.validation import as_codec, baseline_scores, evaluate

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RunComponents:
    """The components that a config describes. A trainer trains them; a dry run measures them."""

    settings: Settings
    tokenizer: Tokenizer  # unwrapped; the trainer wraps it in DDP
    objective: Objective  # with AdversarialTerms for each discriminator
    discriminators: Mapping[str, Discriminator]  # by modality; empty for training without a GAN
    train: list[Source]
    val: list[Source]
    make_metrics: Callable[[Any], list[Metric]]  # tokenizer or baseline -> new metrics


class Trainer:
    """Trains a tokenizer on its objective, and discriminators against the tokenizer.

    Args:
        components: Settings, networks, objective and metrics; the loaders, not ``train`` and ``val``, give the data.
        train_loader: Endless loader.
        val_loader: Loader of a finite validation set.
        accelerator: Devices and processes.
        work_dir: Directory of the run.

    Example:
        >>> import tempfile
        >>> from toolkit import load_config
        >>> from toolkit.build import build_trainer
        >>> small = {"training.max_steps": 1, "data.train.batch_size": 1, "data.train.num_workers": 0,
        ...          "data.val.dataset.num_frames": 1, "data.val.dataset.clips_per_video": 1}
        >>> trainer = build_trainer(load_config("configs/demo_video.py", small), work_dir=tempfile.mkdtemp())
        >>> trainer.run(), trainer.step
        (True, 1)
    """

    def __init__(self, components: RunComponents, *, train_loader: TrainLoader, val_loader: ValLoader,
                 accelerator: Accelerator, work_dir: Path):
        self.settings = settings = components.settings
        self.accelerator, self.work_dir = accelerator, work_dir
        self.train_loader, self.val_loader = train_loader, val_loader
        self.make_metrics = components.make_metrics
        tokenizer, discriminators = components.tokenizer, components.discriminators
        if settings.compile:
            for network in (tokenizer.encoder, tokenizer.decoder, *discriminators.values()):
                network.compile()
        self.objective = components.objective.to(accelerator.device)
        self.objective.check_last_layer(tokenizer.decoder.last_layer)
        # ModelEmaV3 copies the tokenizer, and must do so before DDP wraps it.
        self.ema = None if settings.ema_decay is None else ModelEmaV3(
            tokenizer.to(accelerator.device), decay=settings.ema_decay, use_warmup=settings.ema_warmup)
        make_network = functools.partial(OptimizerState, settings=settings, accelerator=accelerator)
        rate, clipping = settings.discriminator_learning_rate, settings.gradient_clipping
        rate = settings.learning_rate if rate is None else rate
        self.tokenizer = make_network(tokenizer, learning_rate=settings.learning_rate,
                                      max_norm=clipping.get("tokenizer"), extra=self.objective.losses.parameters())
        self.discriminators = {
            modality: make_network(network, learning_rate=rate, max_norm=clipping.get("discriminator"))
            for modality, network in discriminators.items()}
        self.step = 0
        self._last_saved_step: int | None = None  # a checkpoint is not written twice
        self._checked_sizes: set[tuple[str, tuple[int, ...]]] = set()
        self.running_means = RunningMeans(tokenizer)
        self.finite_check = FiniteCheck([tokenizer, self.objective, *discriminators.values()],
                                        max_in_a_row=settings.max_skipped_in_a_row)
        self.scores: dict[str, dict[str, float]] = {}
        self.checkpoints = checkpoint.CheckpointStore(
            work_dir / "checkpoints", keep=settings.checkpoints.keep, rank=accelerator.process_index,
            num_processes=accelerator.num_processes)

    @property
    def evaluated_tokenizer(self) -> Tokenizer:
        """The tokenizer that is validated and exported: the EMA tokenizer, or without EMA the trained one."""
        return self.ema.module if self.ema else self.tokenizer.network

    def run(self) -> bool:
        """Train to the last step, or until interrupted; returns whether it reached the last step."""
        started, first_step = time.time(), self.step
        with self.checkpoints.explaining_full_disk():
            self._check_metrics_early()
            finished = self._train()
            if self.accelerator.is_main_process:
                self._export()
        self.accelerator.wait_for_everyone()
        self._report(finished, seconds=time.time() - started, steps=self.step - first_step)
        return finished

    def _train(self) -> bool:
        log = RunLog(self.work_dir, self.settings, step=self.step, active=self.accelerator.is_main_process)
        with contextlib.closing(log), catch_interrupts() as is_interrupted:
            checkpoint_due = False
            while self.step < self.settings.max_steps and not any_process(is_interrupted()):
                self._train_step(log)
                if self.step % self.settings.validate_every == 0 or self.step == self.settings.max_steps:
                    self.validate(log)
                checkpoint_due |= self.step % self.settings.checkpoints.every == 0
                # No periodic checkpoint while steps are skipped: the weights may be the cause.
                if self.step == self.settings.max_steps or (checkpoint_due and not self.finite_check.in_a_row):
                    self.save_checkpoint()
                    checkpoint_due = False
            finished = self.step == self.settings.max_steps
            if not finished and self.step != self._last_saved_step:
                self.save_checkpoint()
            if finished and not self.scores:  # resumed after the last step: scores for the report only
                self.validate(RunLog(self.work_dir, self.settings, step=self.step, active=False))
        return finished

    def _export(self) -> None:
        """Write ``tokenizer/``, each file atomically."""
        partial, final = self.work_dir / ".tokenizer.partial", self.work_dir / "tokenizer"
        self.evaluated_tokenizer.save_pretrained(partial)
        final.mkdir(exist_ok=True)
        for file in partial.iterdir():
            file.replace(final / file.name)
        partial.rmdir()

    def _check_metrics_early(self) -> None:
        """Run the metrics on one batch of each modality, so that a metric that does not fit the data fails early."""
        tokenizer = self.tokenizer.network
        for batches in self.val_batches().values():
            for batch in islice(batches(), 1):
                positions = tokenizer.quantizer.positions(tokenizer.grid(tuple(batch.pixels.shape[2:])))
                indices = torch.zeros(len(batch.pixels), *positions, tokenizer.num_codebooks, dtype=torch.long)
                for metric in self.make_metrics(tokenizer):
                    metric.update(target=batch.pixels, reconstruction=batch.pixels,
                                  indices=indices if tokenizer.codebook_size else None)

    def _train_step(self, log: RunLog) -> None:
        """One optimizer step of the tokenizer and, if it is active, of the discriminator."""
        started = time.time()
        prepare_step(self.tokenizer, self.objective, self.settings, self.step)
        self.finite_check.save()
        num_micro_batches = self.settings.gradient_accumulation_steps
        keys, results = [], []
        for number in range(num_micro_batches):
            batch = next(self.train_loader)
            self._check_size(batch)
            keys += batch.keys
            results.append(self._micro_batch(batch, loss_factor=1 / num_micro_batches,
                                             last=number == num_micro_batches - 1))
        self._update(batch.modality, results, keys=keys, log=log)  # a step has one modality
        log.advance()
        if self.step % self.settings.log_every == 0 or self.step == self.settings.max_steps:
            status = {"learning_rate": self.tokenizer.learning_rate, "seconds_per_step": time.time() - started}
            if self.settings.quantization != 1:
                status["quantization"] = self.tokenizer.network.quantization
            for modality, means in self.running_means.means():
                log.write_scalars("train", modality, self.step, means | status)

    def _micro_batch(self, batch: Batch, *, loss_factor: float, last: bool) -> tuple[Scalars, IndicesAndShape]:
        """Add a micro-batch's gradients to both networks; returns its scalars and its indices."""
        pixels = batch.pixels.to(self.accelerator.device, non_blocking=True)
        discriminator = self._active_discriminator(batch.modality)
        options = {"step": self.step, "modality": batch.modality, "loss_factor": loss_factor,
                   "autocast": self.accelerator.autocast}
        with self._sync_if_last(self.tokenizer, last):
            output, scalars = tokenizer_pass(pixels, self.tokenizer, self.objective, discriminator, **options)
        if discriminator is not None:
            with self._sync_if_last(discriminator, last):
                scalars |= discriminator_pass(pixels, output, self.objective, discriminator, **options)
        return scalars, (output.indices, tuple(pixels.shape))

    def _sync_if_last(self, network: OptimizerState, last: bool) -> contextlib.AbstractContextManager:
        """Context of a micro-batch's passes; only a step's last micro-batch averages gradients over processes."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(network.wrapped)

    def _update(self, modality: str, results: list[tuple[Scalars, IndicesAndShape]], *, keys: list[str],
                log: RunLog) -> None:
        """Update the tokenizer and the active discriminator, or skip the step if a value is not finite."""
        networks = {"gradient_norm": self.tokenizer}
        if (discriminator := self._active_discriminator(modality)) is not None:
            networks["discriminator_gradient_norm"] = discriminator
        scalars = [losses for losses, _ in results]
        norms = {name: network.clip_gradients() for name, network in networks.items()}
        try:
            problem = self.finite_check.check_or_restore(scalars, norms=norms, keys=keys)
        except DivergenceError as error:
            raise DivergenceError(f"{error} {self._checkpoint_advice()}") from None
        for network in networks.values():
            network.skip() if problem else network.update(self.step)
        self.step += 1
        if problem:
            log.write_skipped(modality, self.step, *problem)
            return
        if self.ema:  # its steps exclude skipped ones; step 1 copies the weights
            self.ema.update(self.tokenizer.network, step=self.step - self.finite_check.num_skipped)
        self.running_means.add(modality, [*scalars, norms], indices=[indices for _, indices in results])

    def _checkpoint_advice(self) -> str:
        """Advice which checkpoint to resume from. After a good checkpoint at least one step was not skipped."""
        steps_before_skips = self.step + 1 - self.finite_check.in_a_row
        checkpoints = checkpoint.checkpoints_in(self.checkpoints.directory)
        good = [path.name for path in checkpoints if checkpoint.checkpoint_step(path) < steps_before_skips]
        suspect = [path.name for path in checkpoints[len(good):]]
        if not suspect:
            return f"{good[-1]} is good." if good else "There is no checkpoint yet."
        return (f"Training from {' and '.join(suspect)} skipped every step: if --resume fails again, delete "
                f"{'it' if len(suspect) == 1 else 'them'} and {f'resume from {good[-1]}' if good else 'start again'}.")

    def _active_discriminator(self, modality: str) -> OptimizerState | None:
        """The discriminator that is trained in this step, or None."""
        discriminator = self.discriminators.get(modality)
        active = discriminator is not None and self.objective.adversaries[modality].is_active(self.step)
        return discriminator if active else None

    def _check_size(self, batch: Batch) -> None:
        """Raise a ConfigError for a batch without the discriminator's size; warn once per size if it is padded."""
        size, tokenizer = tuple(batch.pixels.shape[2:]), self.tokenizer.network
        if (batch.modality, size) in self._checked_sizes:
            return
        self._checked_sizes.add((batch.modality, size))
        discriminator = self.discriminators.get(batch.modality)
        if discriminator is not None and discriminator.network.size not in (None, size):
            raise ConfigError(f"the discriminator needs (T, H, W) = {discriminator.network.size}, got "
                              f"{batch.modality}s of {size} from data.train; set discriminator.size or the dataset's "
                              "num_frames and size so that they agree.")
        if (padded_size := tokenizer.fitting_size(size)) != size:
            logger.warning("%ss of (T, H, W) = %s do not fit the encoder: they are padded to %s.", batch.modality,
                           size, padded_size)

    @torch.no_grad()
    def validate(self, log: RunLog) -> None:
        """Score the evaluated tokenizer in float32 on every modality, and write reconstructions."""
        tokenizer = self.evaluated_tokenizer.eval()
        for modality, batches in self.val_batches().items():
            self.scores[modality] = evaluate(as_codec(tokenizer), batches(), self.make_metrics(tokenizer),
                                             device=self.accelerator.device,
                                             on_first=functools.partial(log.write_samples, modality, self.step))
        codebook_scores = self.running_means.codebook_scores()
        for split, period, scores_by_modality in (("val", "validation", self.scores),
                                                  ("train", "training since the last validation", codebook_scores)):
            for modality, scores in scores_by_modality.items():
                log.write_scalars(split, modality, self.step, scores)
                if collapse := collapse_of(scores):
                    logger.warning("step %d, %s, %s: %s.", self.step, modality, period, collapse)

    def val_batches(self) -> dict[str, Callable[[], Iterator[Batch]]]:
        """modality -> function that starts a pass over its validation batches."""
        modalities = dict.fromkeys(source.dataset.modality for source in self.val_loader.sources)
        return {modality: functools.partial(self.val_loader.of, modality) for modality in modalities}

    def compare(self) -> dict[str, dict[str, dict[str, float]]]:
        """modality -> codec -> scores: the tokenizer's of the last validation, and those of untrained baselines."""
        return {modality: {"tokenizer": self.scores[modality],
                           **baseline_scores(self.evaluated_tokenizer, batches, self.make_metrics)}
                for modality, batches in self.val_batches().items()}

    def _networks(self) -> dict[str, OptimizerState]:
        return {"tokenizer": self.tokenizer,
                **{f"discriminator_{modality}": network for modality, network in self.discriminators.items()}}

    def _modules(self) -> dict[str, nn.Module]:
        """Modules whose state is in checkpoints."""
        modules = {name: trained.network for name, trained in self._networks().items()}
        return modules | {"objective": self.objective} | ({"ema": self.ema.module} if self.ema else {})

    def save_checkpoint(self) -> None:
        """Write ``checkpoints/step_N`` from which a run continues exactly."""
        shared = {"step": self.step, "finite_check": self.finite_check.state_dict(),  # step: not read by --resume
                  "optimizers": {name: network.state_dict() for name, network in self._networks().items()}}
        process_state = {"random": checkpoint.random_state(), "data": self.train_loader.state_dict(),
                         "running_means": self.running_means.state_dict()}
        self.checkpoints.write(self.step, modules=self._modules(), shared=shared, process_state=process_state)
        self._last_saved_step = self.step

    def resume(self) -> None:
        """Continue from the newest readable checkpoint in ``work_dir``; start anew only if there is no checkpoint."""
        newest = self.checkpoints.read_newest(modules=self._modules())
        if newest is None:
            logger.warning("nothing to resume in %s: starting from the first step.", self.checkpoints.directory)
            return
        path, shared, process_state = newest
        self.step = self._last_saved_step = checkpoint.checkpoint_step(path)
        if self.step > self.settings.max_steps:
            raise ConfigError(f"the run has max_steps={self.settings.max_steps}, by training.max_steps or max_flops, "
                              f"which is less than the step of the newest checkpoint, {path}; set a larger number.")
        for name, network in self._networks().items():
            network.load_state_dict(shared["optimizers"][name])
        self.finite_check.load_state_dict(shared["finite_check"])
        self.train_loader.load_state_dict(process_state["data"])
        self.running_means.load_state_dict(process_state["running_means"], device=self.accelerator.device)
        checkpoint.set_random_state(process_state["random"])
        logger.info("resumed from %s.", path)

    def _report(self, finished: bool, *, seconds: float, steps: int) -> None:
        """Log the duration, peak memory, skipped steps and unreadable files."""
        if self.accelerator.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
        logger.info("%d steps in %.1f s (%.2f s per step, validation included), peak memory %.2f GiB.", steps,
                    seconds, seconds / max(steps, 1), peak)
        if self.finite_check.num_skipped:
            logger.warning("%d steps were skipped, because a loss or a gradient was not finite; metrics.jsonl names "
                           "the suspect samples.", self.finite_check.num_skipped)
        if self.train_loader.unreadable:
            logger.warning("%d unreadable files were skipped; they are listed in %s.",
                           len(self.train_loader.unreadable), self.work_dir / "unreadable.txt")
        if not finished:
            logger.warning("interrupted at step %d with the checkpoint %s. Add --resume to the command to continue.",
                           self.step, self.checkpoints.directory / f"step_{self.step}")
