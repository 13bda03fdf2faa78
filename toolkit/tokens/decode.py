"""Token shards to images and videos, as ``tools/reconstruct.py`` writes them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

from toolkit.data.reading.files import list_files, unreadable, unwritable
from toolkit.data.reading.media import frames_per_chunk
from toolkit.data.reading.writing import MAX_FPS, MIN_FPS, MediaWriter
from toolkit.io.atomic_write import check_name
from toolkit.tokenizer import Tokenizer
from toolkit.tokens.plan import TAR_SUFFIX
from toolkit.tokens.shards import read_tokens
from toolkit.tokens.token_set import DESCRIPTION, num_shards
from toolkit.tokens.tokenizing import Progress

logger = logging.getLogger(__name__)


def decode_tokens(tokenizer: Tokenizer, path: str | os.PathLike, *, tokenizer_hash: str, output: str | os.PathLike,
                  process_index: int = 0, num_processes: int = 1,
                  on_progress: Callable[[Progress], None] | None = None) -> int:
    """Write ``NAME_reconstruction``, .png or .mp4, of every sample of token shards; existing files are kept.

    Videos are decoded chunk by chunk, with the chunks in which they were tokenized. A sample whose file cannot be
    written, for example because its name is too long, is skipped with a warning.

    Args:
        tokenizer: The one that made the tokens; runs on its own device.
        path: A folder of token shards, or one shard. Foreign shards are safe: nothing in them is executed.
        tokenizer_hash: From :func:`toolkit.tokens.tokenizer_hash`.
        output: The folder to write to; the input's folders are mirrored.
        process_index, num_processes: This process decodes every ``num_processes``-th shard, from ``process_index`` on.
        on_progress: Called after every chunk.

    Returns:
        How many files this process has written.

    Raises:
        DataError: If a shard is cut off or damaged, a sample's name leads out of ``output``, or its tokens do not fit
            its size or the codebook.
        ValueError: If another tokenizer made the tokens.

    Example:
        >>> from tempfile import mkdtemp
        >>> import toolkit
        >>> from toolkit.tokens import extract_tokens
        >>> tokenizer = toolkit.build_tokenizer(toolkit.load_config("configs/demo_video.py").tokenizer).eval()
        >>> tokens, decoded = Path(mkdtemp()), Path(mkdtemp())
        >>> clip = toolkit.data.sample_clips("eval")[0]
        >>> _ = extract_tokens(tokenizer, clip, tokenizer_hash="0" * 64, output=tokens, short_edge=32, num_frames=6)
        >>> decode_tokens(tokenizer, tokens, tokenizer_hash="0" * 64, output=decoded)
        1
        >>> [file.name.endswith("_reconstruction.mp4") for file in decoded.iterdir()]
        [True]
    """
    tars = list_files(path, suffixes=(TAR_SUFFIX,), beside=(".json", ".txt"))
    if (Path(path) / DESCRIPTION).exists() and (missing := num_shards(Path(path)) - len(tars)) > 0:
        logger.warning("%s lacks %d of its shards; the same extract_tokens command writes them.", path, missing)
    own_tars = tars[process_index::num_processes]
    progress, written = Progress(len(own_tars), on_advance=on_progress), 0
    for tar in own_tars:
        for key, indices, meta in read_tokens(tar):
            if (made_by := meta.get("tokenizer")) != tokenizer_hash:
                raise ValueError(f"{tar}: these are tokens of the tokenizer {made_by}, got {tokenizer_hash}; decode "
                                 "them with the first.")
            target = _target(tar, key, output=Path(output))
            try:
                if any(os.path.exists(f"{target}_reconstruction{suffix}") for suffix in (".png", ".mp4")):
                    continue
                size = _size(tokenizer, tar, key, indices, meta)
                target.parent.mkdir(parents=True, exist_ok=True)
                check_name(f"{target}_reconstruction.png")  # before the work
                with MediaWriter(f"{target}_reconstruction", fps=meta.get("fps")) as writer:
                    for pixels in _pixels(tokenizer, indices, size, is_video=meta.get("fps") is not None):
                        writer.write(pixels[0])
                        progress.advance(frames=pixels.shape[2], files=0.0)
            except OSError as error:
                logger.warning("skipped, cannot be written: %s", unwritable(f"{tar}/{key}", error))
                continue
            written += 1
        progress.shards += 1
        progress.advance(frames=0, files=0.0)
    return written


def _target(tar: Path, key: str, *, output: Path) -> Path:
    """The path of a sample's result; a DataError if it is not within the output folder."""
    name = PurePosixPath(unquote(key))
    target = output / name
    inside = "\0" not in str(name) and ".." not in name.parts and target.resolve().is_relative_to(output.resolve())
    if not inside or not name.name:
        raise unreadable(tar, f"needed names within the output folder, got {str(name)!r}; extract the tokens again.")
    return target


def _size(tokenizer: Tokenizer, tar: Path, key: str, indices: np.ndarray, meta: dict[str, Any]) -> tuple[int, int, int]:
    """(T, H, W) of a sample; a DataError if its indices do not fit that size."""
    size, fps = meta.get("size"), meta.get("fps")
    numbers = isinstance(size, list) and len(size) == 3 and all(isinstance(side, int) and side > 0 for side in size)
    if not numbers or not (size[0] == 1 if fps is None else isinstance(fps, int | float) and MIN_FPS <= fps <= MAX_FPS):
        raise unreadable(tar, f"needed a size of three numbers and frames per second, got {size} and {fps} at {key}; "
                              "extract the tokens again.")
    expected_shape = *tokenizer.quantizer.positions(tokenizer.grid(size)), tokenizer.num_codebooks
    if indices.shape != expected_shape or indices.min() < 0 or indices.max() >= tokenizer.codebook_size:
        raise unreadable(tar, f"needed indices {expected_shape} below {tokenizer.codebook_size} for pixels {size}, got "
                              f"{indices.shape} up to {indices.max(initial=0)} at {key}; extract the tokens again.")
    return tuple(size)


def _pixels(tokenizer: Tokenizer, indices: np.ndarray, size: tuple[int, int, int], *,
            is_video: bool) -> Iterator[Tensor]:
    """Pixels (1, 3, T, H, W) of indices (*positions, G)."""
    device = tokenizer.decoder.last_layer.device

    def batch(positions: np.ndarray) -> Tensor:
        return torch.from_numpy(positions.astype(np.int64))[None].to(device)

    if not is_video or tokenizer.why_not_streamed is not None:
        yield tokenizer.detokenize(batch(indices), size)
        return
    # Cut after the positions that each chunk of frames completed (the next frame starts another one), and before those
    # that the padding completed: decoding then takes the same chunks as tokenizing.
    step, frames = frames_per_chunk(*size[1:], stride_t=tokenizer.stride[0]), size[0]
    ends = [tokenizer.grid((seen + 1, *size[1:]))[0] - 1 for seen in (*range(step, frames, step), frames)]
    cuts = sorted({0, *ends, len(indices)})
    yield from tokenizer.detokenize_stream((batch(indices[low:high]) for low, high in pairwise(cuts)), size)
