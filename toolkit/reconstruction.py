"""Reconstruction of files: read, tokenize, detokenize, score, write, chunk by chunk."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toolkit.contracts import DataError
from toolkit.data.reading.files import unreadable, unwritable
from toolkit.data.reading.media import MAX_FRAMES, Media, frames_per_chunk, open_media
from toolkit.data.reading.writing import MediaWriter, frame_rate
from toolkit.io.atomic_write import check_name
from toolkit.io.progress import FrameBar
from toolkit.metrics import PSNR, SSIM, Codebook
from toolkit.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass
class Reconstruction:
    """The result for one file."""

    size: tuple[int, int, int]  # (T, H, W) of the input
    tokens: tuple[int, ...]  # (*positions, G), the shape of its indices
    bits_per_pixel: float  # log2 K per index, over the T * H * W pixels of the input
    psnr: float  # mean over frames, dB
    ssim: float | None  # mean over frames; None where a side is below SSIM's window of 11
    seconds: float  # from the first frame read to the last one written
    codebook: Codebook  # its use by the indices


def reconstruct(tokenizer: Tokenizer, media: Media, *, path: Path | None = None,
                on_frames: Callable[[int], None] | None = None) -> Reconstruction:
    """Tokenize and detokenize an image or a video, and score the result.

    If the tokenizer can be streamed, a video is processed chunk by chunk, in memory that does not grow with its
    length; otherwise, and for images, at once.

    Args:
        tokenizer: Runs on its own device.
        media: From :func:`toolkit.data.open_media`.
        path: Folder and name without a suffix, for ``path``_reconstruction and ``path``_side_by_side (the input on
            the left): .png of one frame, .mp4 (padded to even sides) of more. None: no files.
        on_frames: Called with the number of frames of each finished chunk.

    Raises:
        DataError: If the file cannot be read to its end; then nothing is written.
        OSError: If the results cannot be written.
        ValueError: If the tokenizer is continuous, takes other channels or sizes, or is not finite.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> from toolkit.data import sample_clips
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
        >>> with open_media(sample_clips("eval")[0], num_frames=6, short_edge=9) as media:
        ...     result = reconstruct(tokenizer, media)
        >>> result.size, result.tokens, round(result.bits_per_pixel, 3), result.ssim
        ((6, 9, 11), (3, 2, 2, 1), 0.364, None)
    """
    if not tokenizer.codebook_size:
        raise ValueError(f"reconstruct needs a discrete quantizer, got {type(tokenizer.quantizer).__name__}, which has "
                         "no tokens; use the tokenizer itself, tokenizer(pixels).reconstruction.")
    codebook = Codebook(codebook_size=tokenizer.codebook_size, num_codebooks=tokenizer.num_codebooks,
                        digits=tokenizer.digits)
    psnr, ssim = PSNR(), SSIM() if min(media.size) >= 11 else None
    frames, tokens, started = 0, None, time.perf_counter()
    with ExitStack() as files:
        writers = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            outputs = [path.with_name(f"{path.name}_{kind}") for kind in ("reconstruction", "side_by_side")]
            for output in outputs:  # before the work
                check_name(f"{output}.png")
            writers = [files.enter_context(MediaWriter(output, fps=media.fps)) for output in outputs]
        for target, output, indices in _round_trip(tokenizer, media):
            codebook.update(target=target, reconstruction=output, indices=indices)
            for metric in filter(None, (psnr, ssim)):
                # Frame by frame: both are means over frames, and SSIM's maps of a whole clip are large.
                for one, other in zip(target.split(1, dim=2), output.split(1, dim=2), strict=True):
                    metric.update(target=one, reconstruction=other)
            for writer, pixels in zip(writers, (output, torch.cat([target, output], dim=-1)), strict=False):
                writer.write(pixels[0])
            frames += target.shape[2]
            shape = tuple(indices.shape[1:])
            tokens = shape if tokens is None else (tokens[0] + shape[0], *shape[1:])
            if on_frames is not None:
                on_frames(target.shape[2])
    size = frames, *media.size
    return Reconstruction(size, tokens, math.prod(tokens) * math.log2(tokenizer.codebook_size) / math.prod(size),
                          psnr.compute()["psnr"], ssim and ssim.compute()["ssim"], time.perf_counter() - started,
                          codebook)


def _round_trip(tokenizer: Tokenizer, media: Media) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Chunks of the input (1, 3, T, H, W), their reconstructions of that shape, and indices (1, *positions, G)."""
    device = tokenizer.decoder.last_layer.device
    length = frames_per_chunk(*media.size, stride_t=tokenizer.stride[0])
    chunks = (chunk[None].to(device) for chunk in media.chunks(length))
    if media.fps is not None and tokenizer.why_not_streamed is None:
        yield from _streamed(tokenizer, chunks)
        return
    whole = torch.cat(list(chunks), dim=2)
    indices, size = tokenizer.tokenize(whole, return_size=True)
    yield whole, tokenizer.detokenize(indices, size), indices


def _streamed(tokenizer: Tokenizer, chunks: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    waiting, latest = [], []  # frames that are not decoded yet, and the indices of the current chunk

    def sources() -> Iterator[Tensor]:
        for chunk in chunks:
            waiting.append(chunk)
            yield chunk

    def tokens() -> Iterator[Tensor]:
        for indices in tokenizer.tokenize_stream(sources()):
            latest.append(indices)
            yield indices

    for output in tokenizer.detokenize_stream(tokens()):
        target = torch.cat(waiting, dim=2)
        frames = min(output.shape[2], target.shape[2])  # the end is padded
        waiting[:] = [target[:, :, frames:]]
        yield target[:, :, :frames], output[:, :, :frames, :target.shape[3], :target.shape[4]], latest.pop()


def codebook_use(results: Iterable[Reconstruction]) -> dict[str, float]:
    """The scores of :class:`toolkit.metrics.Codebook` over the indices of all files."""
    first, *others = (result.codebook for result in results)
    return first.merged(others).compute()


def reconstruct_files(tokenizer: Tokenizer, files: dict[Path, Path], *, num_frames: int | None = None,
                      frame_stride: int = 1, short_edge: int | None = None,
                      ) -> Iterator[tuple[Path, Reconstruction | DataError]]:
    """Reconstruct files (from ``find_files``) one by one: (file, its result or its error).

    A file that cannot be read, or whose results cannot be written, gives an error. By default all frames of a video
    are used, but at most ``MAX_FRAMES`` where the tokenizer cannot be streamed; see :func:`toolkit.data.open_media` for
    the options.
    """
    limit = num_frames if tokenizer.why_not_streamed is None or num_frames is not None else MAX_FRAMES
    with FrameBar(len(files)) as bar:
        for file, path in files.items():
            try:
                with open_media(file, num_frames=limit, frame_stride=frame_stride, short_edge=short_edge) as media:
                    bar.begin(file.name, num_frames=media.num_frames)
                    try:
                        tokenizer.grid((max(1, media.num_frames), *media.size))
                        if media.fps is not None and media.num_frames > 1:
                            frame_rate(media.fps, path=f"{path.name}_reconstruction.mp4")
                    except ValueError as error:  # of a network that takes some sizes only, and a rate that no mp4 holds
                        raise unreadable(file, str(error)) from error
                    result = reconstruct(tokenizer, media, path=path, on_frames=bar.add_frames)
            except (DataError, OSError) as failure:
                error = failure if isinstance(failure, DataError) else unwritable(file, failure)
                if len(files) > 1:  # the caller reports a single file
                    logger.warning("skipped, unreadable: %s", file)
                yield file, error
                continue
            if media.more and num_frames is None:
                logger.warning("%s: only the first %d frames are used; it has more, but %s.", file, limit,
                               tokenizer.why_not_streamed)
            yield file, result
