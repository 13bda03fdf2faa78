"""Checkpoints: written aside and renamed, so that one that is found is whole."""

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

logger = logging.getLogger(__name__)


def checkpoint_step(directory: Path) -> int | None:
    """N of ``step_N``; None for anything else, such as a half-written one.

    Example:
        >>> checkpoint_step(Path("step_20")), checkpoint_step(Path(".step_20.partial"))
        (20, None)
    """
    match = re.fullmatch(r"step_(\d+)", directory.name)
    return int(match[1]) if match else None


def checkpoints_in(directory: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first.

    Example:
        >>> checkpoints_in(Path("no/such/folder"))
        []
    """
    found = [path for path in directory.glob("step_*") if checkpoint_step(path) is not None]
    return sorted(found, key=checkpoint_step)


def save_weights(module: nn.Module, path: Path) -> None:
    """A module's state as safetensors, in its own precision.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> save_weights(nn.Linear(2, 1), path)
        >>> sorted(load_file(path))
        ['bias', 'weight']
    """
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Restore what :func:`save_weights` wrote; every tensor must fit.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(nn.Linear(2, 1), Path(folder) / "layer.safetensors")
        ...     load_weights(nn.Linear(2, 1), Path(folder) / "layer.safetensors")
    """
    module.load_state_dict(load_file(path))


def random_state() -> dict[str, Any]:
    """The state of every random stream of this process, in types that load with ``weights_only``.

    Example:
        >>> state = random_state(); first = torch.rand(())
        >>> set_random_state(state); bool(torch.rand(()) == first)
        True
    """
    name, keys, *rest = np.random.get_state()
    return {"torch": torch.get_rng_state(), "python": random.getstate(),
            "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned.

    Example:
        >>> set_random_state(random_state())
    """
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _flush(path: Path) -> None:
    """Wait until a folder and its files are on the disk."""
    for each in (*path.glob("*"), path):
        if each.is_file() or each == path:
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class DamagedCheckpointError(ValueError):
    """A checkpoint has a file that is missing or cannot be read."""


def _load_state(path: Path) -> dict[str, Any]:
    """What torch.save wrote, as data: nothing in the file is executed.

    Raises:
        DamagedCheckpointError: If it is damaged, or holds more than tensors and plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"it holds a {type(state).__name__}")
        return state
    except (pickle.UnpicklingError, EOFError, LookupError, OSError, RuntimeError, TypeError, AttributeError,
            ValueError) as error:  # whatever torch makes of a file that it did not write
        raise DamagedCheckpointError(f"{path} is damaged, or no state that a run wrote: {str(error)[:500]}") from error


class CheckpointWriter:
    """Writes ``step_N`` folders, each under another name until it is whole.

    Args:
        directory: Where they go.
        keep: How many to keep; None: all.
        rank, num_processes: This process among all; process 0 creates, renames and deletes folders.
        any_of: Whether a flag is set on any of all processes, which wait for each other there; None: there is one.

    Example:
        >>> import tempfile
        >>> writer = CheckpointWriter(Path(tempfile.mkdtemp()), keep=1)
        >>> for step in (10, 20):
        ...     path = writer.write(step, modules={"layer": nn.Linear(2, 1)}, shared={"step": step}, own={})
        >>> [path.name for path in checkpoints_in(writer.directory)]
        ['step_20']
    """

    def __init__(self, directory: Path, *, keep: int | None, rank: int = 0, num_processes: int = 1,
                 any_of: Callable[[bool], bool] | None = None):
        self.directory, self.keep, self.any_of = directory, keep, any_of or bool
        self.rank, self.num_processes = rank, num_processes

    def write(self, step: int, *, modules: dict[str, nn.Module], shared: dict[str, Any],
              own: dict[str, Any]) -> Path:
        """Write a checkpoint; every process calls it.

        Args:
            step: Optimizer steps taken.
            modules: name -> module, saved as ``name.safetensors`` by process 0.
            shared: State that is the same on all processes.
            own: This process's own state (random streams, position in the data).

        Raises:
            OSError: On all processes, if one cannot write, as on a full disk; nothing is left of the attempt, and the
                checkpoints before are as they were.
        """
        partial, final = self.directory / f".step_{step}.partial", self.directory / f"step_{step}"

        def write_shared() -> None:
            self._clear()
            partial.mkdir(parents=True)
            for name, module in modules.items():
                save_weights(module, partial / f"{name}.safetensors")
            torch.save(shared | {"num_processes": self.num_processes}, partial / "state.pt")

        def rename() -> None:
            _flush(partial)  # what is renamed is on the disk, whatever happens to the machine
            if final.exists():
                final.rename(self.directory / f".step_{step}.old")
            partial.rename(final)
            _flush(self.directory)
            for old in checkpoints_in(self.directory)[:-self.keep] if self.keep else []:
                old.rename(self.directory / f".{old.name}.old")  # one that is half deleted must not be found
            self._clear()

        self._together(step, write_shared if self.rank == 0 else lambda: None)
        self._together(step, lambda: torch.save(own, partial / f"process_{self.rank}.pt"))
        self._together(step, rename if self.rank == 0 else lambda: None)
        return final

    def _together(self, step: int, part: Callable[[], None]) -> None:
        """One part of the work on each process, done by all or given up by all."""
        failure = None
        try:
            part()
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, in each library's words
            failure = error
        if self.any_of(failure is not None):
            if self.rank == 0:
                self._clear()
            raise OSError(f"the checkpoint of step {step} cannot be written to {self.directory}: "
                          f"{failure or 'another process could not'}. {self._way_on()}") from failure

    def _way_on(self) -> str:
        found = [path.name for path in checkpoints_in(self.directory)]
        return (f"The last good one is {found[-1] if found else 'not there yet'}; make room (all machines write to one "
                "work dir) and go on with --resume.")

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Within it, whatever a full disk makes fail is one error that says how to go on.

        Raises:
            OSError: That one, or another as it was.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:  # safetensors has errors of its own
            full = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
            if not any(words in str(error) for words in full):
                raise
            raise OSError(f"{self.directory.parent} cannot be written to: {error}. Of the checkpoints: "
                          f"{self._way_on()}") from error

    def _clear(self) -> None:
        """Remove what is half written or half deleted, of this run or of one that was killed."""
        for path in self.directory.glob(".step_*"):
            shutil.rmtree(path, ignore_errors=True)

    def read(self, checkpoint: Path, *, modules: dict[str, nn.Module]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restore the modules; returns the shared state and this process's own.

        Raises:
            DamagedCheckpointError: If a file is missing or cannot be read.
            ValueError: If it is of another config, or of another number of processes.
        """
        shared = _load_state(checkpoint / "state.pt")
        if (before := shared.pop("num_processes", None)) != self.num_processes:
            raise ValueError(f"{checkpoint} was written by {before or 'an unknown number of'} process"
                             f"{'es' * (before != 1)}, got {self.num_processes}; resume with as many as before.")
        own = _load_state(checkpoint / f"process_{self.rank}.pt")
        for name, module in modules.items():
            path = checkpoint / f"{name}.safetensors"
            try:
                load_weights(module, path)
            except (OSError, SafetensorError, ValueError) as error:
                raise DamagedCheckpointError(f"{path} is missing or damaged: {str(error)[:500]}") from error
            except RuntimeError as error:  # a tensor too many, missing or of another shape
                raise ValueError(f"{checkpoint} does not fit this config; resume with the config of the run, or give "
                                 f"another --work-dir. {str(error)[:500]}") from error
        return shared, own

    def read_newest(self, *, modules: dict[str, nn.Module]) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
        """What :meth:`read` gives of the newest checkpoint that all processes can read, and that; None without any.

        Raises:
            DamagedCheckpointError: If there are some, all damaged.
            ValueError: As of :meth:`read`.
        """
        damage = None
        for checkpoint in reversed(found := checkpoints_in(self.directory)):
            try:
                read, damage = self.read(checkpoint, modules=modules), None
            except DamagedCheckpointError as error:
                damage = error
            if not self.any_of(damage is not None):
                return checkpoint, *read
            logger.warning("%s is left out: %s.", checkpoint, damage or "another process cannot read its part")
        if found:
            raise DamagedCheckpointError(f"no checkpoint in {self.directory} can be read ({damage}); resume with the "
                                         "config of the run, or start anew in another --work-dir.")
        return None
