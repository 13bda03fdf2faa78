"""Files through a tokenizer and back: read, tokenize, detokenize, score, write, chunk by chunk."""

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
from toolkit.data.reading.media import MAX_FRAMES, Media, MediaWriter, frames_per_chunk, open_media
from toolkit.io.progress import FrameBar
from toolkit.metrics import PSNR, SSIM, Codebook
from toolkit.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass
class Reconstruction:
    """What came of a file.

    Attributes:
        size: (T, H, W) of what was read.
        tokens: (*positions, G), the shape of its indices.
        bits_per_pixel: log2 K per index, over the T * H * W pixels of the input.
        psnr: Mean over frames, dB.
        ssim: Mean over frames; None where a side is below SSIM's window of 11.
        seconds: From the first frame read to the last one written.
        codebook: What the indices use of the codebook.
    """

    size: tuple[int, int, int]
    tokens: tuple[int, ...]
    bits_per_pixel: float
    psnr: float
    ssim: float | None
    seconds: float
    codebook: Codebook


def reconstruct(tokenizer: Tokenizer, media: Media, *, path: Path | None = None,
                on_frames: Callable[[int], None] | None = None) -> Reconstruction:
    """Tokens of an image or a video, pixels of the tokens, and their scores.

    A video goes through chunk by chunk, in memory that does not grow with its length, if the tokenizer can be
    streamed; images, and the videos of a tokenizer that cannot, go as a whole.

    Args:
        tokenizer: In eval mode; the work is done on its device.
        media: From :func:`toolkit.data.open_media`, any size.
        path: Folder and name without an ending, where ``path``_reconstruction and ``path``_side_by_side (the input
            on the left) are written: .png of one frame, .mp4 (padded to even sides) of more. Folders are made. None:
            nothing is written.
        on_frames: Called with the number of frames that have just been finished.

    Raises:
        DataError: If the file cannot be read to its end; nothing is written then.
        ValueError: If the tokenizer is continuous or takes other channels.

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
        writers = _writers(path, files, fps=media.fps)
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


def _writers(path: Path | None, files: ExitStack, *, fps: float | None) -> list[MediaWriter]:
    if path is None:
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    return [files.enter_context(MediaWriter(path.with_name(f"{path.name}_{kind}"), fps=fps))
            for kind in ("reconstruction", "side_by_side")]


def _round_trip(tokenizer: Tokenizer, media: Media) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pieces of the input (1, 3, T, H, W), their reconstruction of that shape, and indices (1, *positions, G)."""
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
    waiting, found = [], []  # frames not yet decoded, and the indices just looked up

    def sources() -> Iterator[Tensor]:
        for chunk in chunks:
            waiting.append(chunk)
            yield chunk

    def tokens() -> Iterator[Tensor]:
        for indices in tokenizer.tokenize_stream(sources()):
            found.append(indices)
            yield indices

    for output in tokenizer.detokenize_stream(tokens()):
        target = torch.cat(waiting, dim=2)
        frames = min(output.shape[2], target.shape[2])  # the end is padded
        waiting[:] = [target[:, :, frames:]]
        yield target[:, :, :frames], output[:, :, :frames, :target.shape[3], :target.shape[4]], found.pop()


def codebook_use(results: Iterable[Reconstruction]) -> dict[str, float]:
    """How the files' indices together use the codebook: the scores of :class:`toolkit.metrics.Codebook`.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> from toolkit.data import sample_clips
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
        >>> with open_media(sample_clips("eval")[0], num_frames=1, short_edge=16) as media:
        ...     result = reconstruct(tokenizer, media)
        >>> round(codebook_use([result, result])["codebook_entropy_bound"], 3)   # ln of the twelve positions
        2.485
    """
    first, *others = (result.codebook for result in results)
    return first.merged(others).compute()


def reconstruct_files(tokenizer: Tokenizer, files: dict[Path, Path], *, num_frames: int | None = None,
                      frame_stride: int = 1, short_edge: int | None = None,
                      ) -> Iterator[tuple[Path, Reconstruction | DataError]]:
    """Read, reconstruct and write files one after the other, with a bar on the terminal.

    Args:
        tokenizer: In eval mode.
        files: From :func:`toolkit.data.reading.naming.find_files`.
        num_frames, frame_stride, short_edge: See :func:`toolkit.data.open_media`. All frames of a video are taken
            by default, but at most ``MAX_FRAMES`` where the tokenizer cannot be streamed, which is logged.

    Yields:
        (file, what came of it), an unreadable file's error among them.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
        >>> list(reconstruct_files(tokenizer, {Path("no.mp4"): Path("out/no")}))[0][1]
        DataError('no.mp4: needed a video that FFmpeg can decode, got No such file or directory; ...')
    """
    limit = num_frames if tokenizer.why_not_streamed is None or num_frames is not None else MAX_FRAMES
    with FrameBar(len(files)) as bar:
        for file, path in files.items():
            try:
                with open_media(file, num_frames=limit, frame_stride=frame_stride, short_edge=short_edge) as media:
                    bar.begin(file.name, num_frames=media.num_frames)
                    result = reconstruct(tokenizer, media, path=path, on_frames=bar.advance)
            except DataError as error:
                if len(files) > 1:  # a single one is the caller's to report
                    logger.warning("skipped, unreadable: %s", file)
                yield file, error
                continue
            if media.more and num_frames is None:
                logger.warning("%s: the first %d frames are taken; it has more, but %s.", file, limit,
                               tokenizer.why_not_streamed)
            yield file, result
