"""Checkpoints: written to a temporary folder and renamed, so that ``step_N`` is always complete."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from toolkit.layers.distributed import any_process

logger = logging.getLogger(__name__)


def checkpoint_step(directory: Path) -> int | None:
    """N of ``step_N``; None for other folders, such as partial checkpoints."""
    match = re.fullmatch(r"step_(\d+)", directory.name)
    return int(match[1]) if match else None


def checkpoints_in(directory: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted((path for path in directory.glob("step_*") if checkpoint_step(path) is not None),
                  key=checkpoint_step)


def random_state() -> dict[str, Any]:
    """State of every random generator of this process, in types that load with ``weights_only``."""
    name, keys, *rest = np.random.get_state()
    return {"torch": torch.get_rng_state(), "python": random.getstate(),
            "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the state from :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _flush(path: Path) -> None:
    """Flush a folder and its files to the disk."""
    for each in (*filter(Path.is_file, path.glob("*")), path):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class DamagedCheckpointError(ValueError):
    """A checkpoint has a file that is missing or cannot be read."""


def _read_file(path: Path) -> dict[str, Any]:
    """Read a dict that torch.save or safetensors wrote; no code in the file is executed."""
    try:
        is_safetensors = path.suffix == ".safetensors"
        state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return state
    except (pickle.UnpicklingError, EOFError, LookupError, OSError, RuntimeError, TypeError, AttributeError, ValueError,
            SafetensorError) as error:  # what torch and safetensors raise for a missing or damaged file
        raise DamagedCheckpointError(f"{path} is missing or damaged, or was not written by a run: "
                                     f"{str(error)[:500]}") from error


class CheckpointStore:
    """Writes and reads checkpoints (``step_N`` folders). Only process 0 creates, renames and deletes them."""

    def __init__(self, directory: Path, *, keep: int | None, rank: int = 0, num_processes: int = 1):
        self.directory, self.keep, self.rank, self.num_processes = directory, keep, rank, num_processes

    def write(self, step: int, *, modules: dict[str, nn.Module], shared: dict[str, Any],
              process_state: dict[str, Any]) -> None:
        """Write a checkpoint; every process calls it.

        ``shared`` is equal on all processes. ``process_state`` differs: random generators, position in the data, log
        statistics. If one process cannot write, all raise an OSError, and the earlier checkpoints are unchanged.
        """
        partial, final = self.directory / f".step_{step}.partial", self.directory / f"step_{step}"

        def write_shared() -> None:
            self._clear()
            partial.mkdir(parents=True)
            for name, module in modules.items():
                state = {key: tensor.cpu().contiguous() for key, tensor in module.state_dict().items()}
                save_file(state, partial / f"{name}.safetensors")
            torch.save(shared | {"num_processes": self.num_processes}, partial / "state.pt")

        def publish() -> None:
            _flush(partial)  # must be on the disk before the rename, in case the machine fails
            if final.exists():
                final.rename(self.directory / f".step_{step}.old")
            partial.rename(final)
            _flush(self.directory)
            for old in checkpoints_in(self.directory)[:-self.keep] if self.keep else []:
                old.rename(self.directory / f".{old.name}.old")  # a half-deleted checkpoint must not be read
            self._clear()

        self._on_all_processes(step, write_shared if self.rank == 0 else lambda: None)
        self._on_all_processes(step, lambda: torch.save(process_state, partial / f"process_{self.rank}.pt"))
        self._on_all_processes(step, publish if self.rank == 0 else lambda: None)

    def _on_all_processes(self, step: int, action: Callable[[], None]) -> None:
        """Run an action on each process; if it fails on one, it fails on all."""
        failure = None
        try:
            action()
        except (OSError, RuntimeError, SafetensorError) as error:  # each library's error for a full disk
            failure = error
        if any_process(failure is not None):
            if self.rank == 0:
                self._clear()
            raise OSError(f"the checkpoint of step {step} cannot be written to {self.directory}: "
                          f"{failure or 'another process could not'}. {self._resume_advice()}") from failure

    def _resume_advice(self) -> str:
        names = [path.name for path in checkpoints_in(self.directory)]
        newest = f"The last good one is {names[-1]}" if names else "There is no checkpoint yet"
        return f"{newest}; free disk space, check that all machines see this work dir, and continue with --resume."

    @contextmanager
    def explaining_full_disk(self) -> Iterator[None]:
        """Context that turns the error of a full disk into an OSError with advice how to continue."""
        try:
            yield
        except (OSError, SafetensorError) as error:  # safetensors has its own error class
            full = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
            if self._resume_advice() in str(error) or not any(words in str(error) for words in full):
                raise
            raise OSError(f"{self.directory.parent} cannot be written to: {error}. {self._resume_advice()}") from error

    def _clear(self) -> None:
        """Delete partial, replaced and expired checkpoints, also those that a killed run left."""
        for path in self.directory.glob(".step_*"):
            shutil.rmtree(path, ignore_errors=True)

    def read(self, checkpoint: Path, *, modules: dict[str, nn.Module]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restore the modules; returns the shared state and the state of this process."""
        shared = _read_file(checkpoint / "state.pt")
        if (num_before := shared.pop("num_processes", None)) != self.num_processes:
            raise ValueError(f"{checkpoint} was written by {num_before or 'an unknown number of'} process"
                             f"{'es' * (num_before != 1)}, got {self.num_processes}; resume with as many as before.")
        process_state = _read_file(checkpoint / f"process_{self.rank}.pt")
        for name, module in modules.items():
            state = _read_file(checkpoint / f"{name}.safetensors")
            try:
                module.load_state_dict(state)
            except RuntimeError as error:  # an unexpected or missing tensor, or one of another shape
                raise ValueError(f"{checkpoint} does not fit this config; resume with the config of the run, or choose "
                                 f"another --work-dir. {str(error)[:500]}") from error
        return shared, process_state

    def read_newest(self, *, modules: dict[str, nn.Module]) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
        """Restore the newest checkpoint that all processes can read -> (path, *read(path)), or None without any."""
        for checkpoint in reversed(checkpoints := checkpoints_in(self.directory)):
            damage = None
            try:
                states = self.read(checkpoint, modules=modules)
            except DamagedCheckpointError as error:
                damage = error
            if not any_process(damage is not None):
                return checkpoint, *states
            reason = damage or "another process cannot read its files"
            logger.warning("%s is skipped: %s.", checkpoint, reason)
        if checkpoints:
            raise DamagedCheckpointError(f"no checkpoint in {self.directory} can be read ({reason}); a file is damaged "
                                         "or the networks differ: use the run's config or another --work-dir.")
        return None
