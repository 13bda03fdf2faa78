"""Images and videos to a folder of token shards, each written completely or not at all."""

from __future__ import annotations

import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from hashlib import sha256
from math import prod
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

from toolkit.contracts import DataError
from toolkit.io.atomic_write import PARTIAL, atomic_open
from toolkit.tokenizer import Tokenizer
from toolkit.tokens.plan import is_tar, plan_shards, samples_of
from toolkit.tokens.shards import sample_key, write_npy, write_sample
from toolkit.tokens.token_set import Summary, check_description, is_done, shard_file, summarize
from toolkit.tokens.tokenizing import Progress, Tokenizing, Tokens

logger = logging.getLogger(__name__)

MAX_IN_MEMORY = 2**24  # bytes of a sample's tokens; larger ones go to a temporary file


def extract_tokens(tokenizer: Tokenizer, path: str | os.PathLike, *, tokenizer_hash: str, output: str | os.PathLike,
                   short_edge: int | None = None, num_frames: int | None = None, frame_stride: int = 1,
                   samples_per_shard: int | None = None, batch_size: int = 1, num_workers: int = 4,
                   process_index: int = 0, num_processes: int = 1,
                   on_progress: Callable[[Progress], None] | None = None) -> Summary:
    """Tokenize files into tars of tokens: this process's share, and only shards that do not exist yet.

    Which sample goes into which shard depends on the inputs alone, and a shard gets its name when it is complete. So
    any number of processes write the same files without waiting, and after a kill the same call continues.

    Args:
        tokenizer: Runs on its own device. The hub id, revision, subfolder and commit that it was loaded from, or its
            shipped name and the version of this package, are stored with every sample.
        path: A folder, a list file, a glob, a pattern in braces or a file; of images, videos and tars of them.
        tokenizer_hash: From :func:`toolkit.tokens.tokenizer_hash`; stored with every sample.
        output: The folder to write to.
        short_edge, num_frames, frame_stride: See :func:`toolkit.data.open_media`. The default is all frames of a
            video, chunk by chunk, but at most ``MAX_FRAMES`` where the tokenizer cannot be streamed.
        samples_per_shard: None: a 64th of the files, at most 1,000. A tar gives one shard.
        batch_size: Consecutive images of one size to tokenize at once. In a batch the rounding differs, and a latent
            near zero may get another token than alone.
        num_workers: Threads that read and decode.
        process_index, num_processes: This process writes every ``num_processes``-th shard, from ``process_index`` on.
        on_progress: Called after every chunk.

    Returns:
        A summary of the folder. It lists unreadable inputs, and at the end so does ``unreadable.txt``.

    Raises:
        DataError: If there is nothing at ``path``.
        ValueError: If the tokenizer is continuous or its weights, latents or codes are not finite, a number is too
            small, or the folder has tokens of other inputs, settings, another tokenizer or another commit of it.

    Example:
        >>> import tempfile
        >>> import toolkit
        >>> from toolkit.tokens import read_tokens
        >>> tokenizer = toolkit.build_tokenizer(toolkit.load_config("configs/demo_video.py").tokenizer).eval()
        >>> clip, folder = toolkit.data.sample_clips("eval")[0], Path(tempfile.mkdtemp())
        >>> summary = extract_tokens(tokenizer, clip, tokenizer_hash="0" * 64, output=folder, short_edge=32,
        ...                          num_frames=6)
        >>> summary.complete, summary.num_samples, [file.name for file in sorted(folder.iterdir())]
        (True, 1, ['dataset.json', 'tokens-000000.json', 'tokens-000000.tar'])
        >>> for key, indices, meta in read_tokens(folder / "tokens-000000.tar"):
        ...     print(indices.shape, indices.dtype, meta["size"], meta["original_size"], round(meta["fps"], 2))
        (3, 4, 5, 1) int32 [6, 32, 39] [144, 176] 29.97
    """
    if not tokenizer.codebook_size:
        raise ValueError(f"extract_tokens needs a discrete quantizer, got {type(tokenizer.quantizer).__name__}, which "
                         "has no tokens; use encode.")
    if broken := [name for name, weight in tokenizer.named_parameters() if not weight.isfinite().all()]:
        raise ValueError(f"extract_tokens needs finite weights, got NaN or infinity in {len(broken)} of them, first in "
                         f"{broken[0]}; train or download the tokenizer again.")
    numbers = dict(batch_size=batch_size, num_workers=num_workers, frame_stride=frame_stride, short_edge=short_edge,
                   num_frames=num_frames)
    if low := [name for name, number in numbers.items() if number is not None and number < 1]:
        raise ValueError(f"extract_tokens needs numbers of at least 1, got {low[0]}={numbers[low[0]]}.")
    shards, folder = plan_shards(path, output=output, samples_per_shard=samples_per_shard), Path(output)
    sources = "\n".join(item.source for shard in shards for item in shard)
    meaning = {"tokenizer": tokenizer_hash, "quantizer": tokenizer.quantizer.config,
               "codebook_size": tokenizer.codebook_size, "num_codebooks": tokenizer.num_codebooks,
               "digits": list(tokenizer.digits), "digit_order": "most significant first", "frame_stride": frame_stride}
    if tokenizer.source is not None and tokenizer.source.metadata is not None:
        meaning["tokenizer_source"] = tokenizer.source.metadata
    folder.mkdir(parents=True, exist_ok=True)
    check_description(folder, meaning | {
        "short_edge": short_edge, "num_frames": num_frames, "batch_size": batch_size, "num_shards": len(shards),
        "samples_per_shard": max(map(len, shards)),
        "inputs": sha256(sources.encode(errors="surrogateescape")).hexdigest()})
    todo = [number for number in range(process_index, len(shards), num_processes) if not is_done(folder, number)]
    _remove_partial(folder, todo)
    progress = Progress(len(todo), on_advance=on_progress)
    tokenizing = Tokenizing(tokenizer, progress=progress, **numbers)
    with closing(tokenizing(samples_of(shards[number] for number in todo))) as tokens:
        for count, number in enumerate(todo):
            progress.shards, progress.share = count, 0.0 if is_tar(shards[number][0]) else 1 / len(shards[number])
            _write(shard_file(folder, number), iter(tokens.__next__, None), meaning)
    progress.shards = len(todo)
    progress.advance(frames=0, files=0.0)
    return summarize(folder)


def _remove_partial(folder: Path, numbers: Iterable[int]) -> None:
    """Delete what a killed process left of these shards."""
    names = {shard_file(folder, number).stem for number in numbers}
    for file in folder.glob(f"{PARTIAL}*"):
        if file.name.removeprefix(PARTIAL).split(".")[0] in names:
            file.unlink()


def _write(path: Path, samples: Iterator[Tokens], meaning: dict[str, Any]) -> None:
    """Write one shard, and before it gets its name, a JSON file of its counts."""
    counts = {"num_samples": 0, "num_tokens": 0, "unreadable": []}
    with atomic_open(path) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as shard:
            for tokens in samples:
                sample = tokens.sample
                try:
                    with SpooledTemporaryFile(max_size=MAX_IN_MEMORY, dir=path.parent) as indices:
                        shape = write_npy(indices, tokens.chunks)
                        key, size = sample_key(sample.name), [tokens.num_frames, *tokens.media.size]
                        write_sample(shard, key, indices, meaning | {
                            "key": key, "source": sample.source, "original_size": tokens.media.original_size,
                            "size": size, "num_frames": tokens.num_frames, "fps": tokens.media.fps})
                except DataError as error:
                    logger.warning("skipped, unreadable: %s", error)
                    counts["unreadable"].append({"source": sample.source, "reason": str(error)})
                else:
                    counts["num_samples"] += 1
                    counts["num_tokens"] += prod(shape)
        with atomic_open(path.with_suffix(".json")) as counts_file:
            counts_file.write(json.dumps(counts, sort_keys=True, indent=2).encode() + b"\n")
