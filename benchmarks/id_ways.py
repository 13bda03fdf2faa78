"""What ``ids.py`` compares: ways to tokenize and to reconstruct the same clips, each against the plain way.

The plain way: float32, one process, one thread, one clip at a time and whole, not compiled.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState
from torch import Tensor

from toolkit.build import build_trainer, load_tokenizer
from toolkit.config import load_config
from toolkit.metrics import PSNR
from toolkit.tokenizer import Tokenizer

DEMO = Path(__file__).parents[1] / "configs" / "demo_video.py"
STEPS = 4  # of training before it is stopped, and again after


class NotHereError(Exception):
    """This machine cannot do it; the text says what it needs."""


@dataclass
class Case:
    """A tokenizer's directory, clips (N, 3, T, H, W) in [-1, 1], and a folder to write to."""

    directory: Path
    clips: Tensor
    scratch: Path

    def tokenizer(self) -> Tokenizer:
        """From its files, each time anew."""
        return load_tokenizer(self.directory)


@dataclass
class Tokenized:
    """Indices (N, *positions, G) of all clips, and the PSNR in dB of their reconstructions."""

    indices: Tensor
    psnr: float


@torch.no_grad()
def tokenized(tokenizer: Tokenizer, clips: Tensor, *, batch_size: int = 1) -> Tokenized:
    """The clips, so many at a time."""
    indices, psnr = [], PSNR()
    for batch in clips.split(batch_size):
        output = tokenizer(batch)
        indices.append(output.indices)
        psnr.update(target=batch, reconstruction=output.reconstruction)
    return Tokenized(torch.cat(indices), psnr.compute()["psnr"])


def plain(case: Case) -> Tokenized:
    """What the other ways are compared with."""
    return tokenized(case.tokenizer(), case.clips)


def in_batches(case: Case, size: int) -> Tokenized:
    """Several clips at once."""
    return tokenized(case.tokenizer(), case.clips, batch_size=size)


def lengths_of_chunks(num_frames: int, lengths: tuple[int, ...]) -> list[int]:
    """Lengths, over and over, that sum up to ``num_frames``."""
    chunks: list[int] = []
    for length in cycle(lengths):
        if sum(chunks) == num_frames:
            return chunks
        chunks.append(min(length, num_frames - sum(chunks)))


@torch.no_grad()
def in_chunks(case: Case, lengths: tuple[int, ...]) -> Tokenized:
    """Round trip of streams: tokenized and decoded in chunks of ``lengths`` frames."""
    tokenizer, indices, psnr = case.tokenizer(), [], PSNR()
    for clip in case.clips.split(1):
        pieces: list[Tensor] = []

        def noted(clip: Tensor = clip, pieces: list[Tensor] = pieces) -> Iterator[Tensor]:
            chunks = clip.split(lengths_of_chunks(clip.shape[2], lengths), dim=2)
            for piece in tokenizer.tokenize_stream(chunks):
                pieces.append(piece)
                yield piece

        pixels = torch.cat(list(tokenizer.detokenize_stream(noted(), size=tuple(clip.shape[2:]))), dim=2)
        indices.append(torch.cat(pieces, dim=1))
        psnr.update(target=clip, reconstruction=pixels)
    return Tokenized(torch.cat(indices), psnr.compute()["psnr"])


def _share(rank: int, case: Case, threads: int) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{case.scratch}/store", rank=rank, world_size=2)
    found = tokenized(case.tokenizer(), case.clips[rank::2])  # the PSNR is that of both
    torch.save((found.indices, found.psnr), case.scratch / f"share_{rank}.pt")
    dist.destroy_process_group()


def in_two_processes(case: Case) -> Tokenized:
    """Each has every other clip."""
    (case.scratch / "store").unlink(missing_ok=True)
    mp.spawn(_share, args=(case, torch.get_num_threads()), nprocs=2)
    shares = [torch.load(case.scratch / f"share_{rank}.pt") for rank in (0, 1)]
    indices = shares[0][0].new_empty(len(case.clips), *shares[0][0].shape[1:])
    for rank, (share, _) in enumerate(shares):
        indices[rank::2] = share
    return Tokenized(indices, shares[0][1])


def with_threads(case: Case, count: int) -> Tokenized:
    """As the plain way, on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return plain(case)
    finally:
        torch.set_num_threads(before)


def saved_and_loaded(case: Case) -> Tokenized:
    """Written again, and read."""
    case.tokenizer().save_pretrained(case.scratch / "saved")
    return tokenized(load_tokenizer(case.scratch / "saved"), case.clips)


def _trained_on(case: Case, work_dir: Path, *, resume: bool) -> Tokenized:
    """After 2 * STEPS more steps of training on the demo's clips, or the rest of them."""
    config = load_config(DEMO, {
        "training.init_from": str(case.directory), "training.max_steps": 2 * STEPS, "training.learning_rate": 1e-3,
        "training.warmup_steps": 0, "training.checkpoints": dict(every=STEPS, keep=None),
        "training.ema_warmup": False, "data.val.dataset.clips_per_video": 1})
    config.pop("tokenizer")  # it is the one to start from
    AcceleratorState._reset_state()
    build_trainer(copy.deepcopy(config), work_dir=work_dir, resume=resume).run()
    return tokenized(load_tokenizer(work_dir / "tokenizer"), case.clips)


def trained_in_one_go(case: Case) -> Tokenized:
    """Some more steps of training, not interrupted."""
    return _trained_on(case, case.scratch / "one_go", resume=False)


def trained_and_resumed(case: Case) -> Tokenized:
    """The same steps, resumed after half of them; needs what :func:`trained_in_one_go` wrote."""
    resumed = case.scratch / "resumed"
    shutil.copytree(case.scratch / "one_go", resumed, ignore=shutil.ignore_patterns(f"step_{2 * STEPS}", "tokenizer"))
    return _trained_on(case, resumed, resume=True)


def under_autocast(case: Case, dtype: torch.dtype) -> Tokenized:
    """Both networks in half precision.

    Raises:
        NotHereError: If a CPU has no such convolutions.
    """
    try:
        with torch.autocast("cpu", dtype=dtype):
            return tokenized(case.tokenizer(), case.clips)
    except RuntimeError as error:  # torch's, for an operation that there is not in this type
        raise NotHereError("needs a GPU") from error


def in_float64(case: Case) -> Tokenized:
    """Both networks in double precision: what float32's own rounding changes."""
    return tokenized(case.tokenizer().double(), case.clips.double())


def compiled(case: Case) -> Tokenized:
    """Both networks by torch.compile.

    Raises:
        NotHereError: If there is no compiler.
    """
    if not shutil.which("g++") and not shutil.which("clang++"):
        raise NotHereError("needs a C++ compiler")
    tokenizer = case.tokenizer()
    tokenizer.encoder.compile()
    tokenizer.decoder.compile()
    return tokenized(tokenizer, case.clips)


@dataclass(frozen=True)
class Way:
    """How to run, and what it is compared with."""

    run: Callable[[Case], Tokenized]
    against: Callable[[Case], Tokenized] = plain


WAYS = {
    "batch of 1, once more": Way(plain),
    "batch of 2": Way(partial(in_batches, size=2)),
    "batch of 8": Way(partial(in_batches, size=8)),
    "chunks of 1": Way(partial(in_chunks, lengths=(1,))),
    "chunks of 4": Way(partial(in_chunks, lengths=(4,))),
    "chunks of 5": Way(partial(in_chunks, lengths=(5,))),
    "chunks of 16": Way(partial(in_chunks, lengths=(16,))),
    "chunks of 1, 7, 2": Way(partial(in_chunks, lengths=(1, 7, 2))),
    "2 processes": Way(in_two_processes),
    "2 threads": Way(partial(with_threads, count=2)),
    "saved and loaded": Way(saved_and_loaded),
    "training resumed": Way(trained_and_resumed, against=trained_in_one_go),
    "float64": Way(in_float64),
    "torch.compile": Way(compiled),
    "bf16 autocast": Way(partial(under_autocast, dtype=torch.bfloat16)),
    "fp16 autocast": Way(partial(under_autocast, dtype=torch.float16)),
}
