"""Files through a tokenizer and back: read, tokenize, detokenize, score, write beside the input."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from toolkit.contracts import DataError
from toolkit.data import iter_frames, read_image, write_image, write_video
from toolkit.data.files import list_files, unreadable
from toolkit.data.images import IMAGE_SUFFIXES
from toolkit.data.transforms import resize, to_frames, to_pixels
from toolkit.data.video_file import VIDEO_SUFFIXES, VideoFile
from toolkit.data.video_io import stack
from toolkit.metrics import PSNR, SSIM, Codebook
from toolkit.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

MAX_FRAMES = 65  # of a video, where the caller does not say: 1 + 16 * 4, about two seconds


@dataclass
class Clip:
    """What was read of a file.

    Attributes:
        pixels: (3, T, H, W) in [-1, 1]; an image is T = 1.
        fps: Frames per second of these frames; None for an image.
        more: Whether the file has frames beyond these.
    """

    pixels: Tensor
    fps: float | None
    more: bool


def find_files(path: str | os.PathLike, *, output: str | os.PathLike) -> dict[Path, Path]:
    """Images and videos of ``path``, each with the folder and name under which its results go.

    A folder is searched recursively and mirrored in ``output``, which may lie in it: files there are
    left out. A name is the file's without its ending, or with it where another file of the folder
    would have the same.

    Args:
        path: A file, a folder, a glob or a list file, as :func:`toolkit.data.files.list_files` has it.
        output: The folder to write to; it need not exist.

    Returns:
        file -> ``output / folders / name``, to which an ending is to be added.

    Raises:
        DataError: If there is nothing at ``path``.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.png", "a.jpg", "b.mp4"):
        ...     (folder / name).touch()
        >>> [str(target) for target in find_files(folder, output="out").values()]
        ['out/a.jpg', 'out/a.png', 'out/b']
    """
    suffixes = tuple(dict.fromkeys(IMAGE_SUFFIXES + VIDEO_SUFFIXES))
    files = list(dict.fromkeys(Path(os.path.abspath(file)) for file in list_files(path, suffixes=suffixes)))
    root, output = Path(os.path.abspath(Path(path).expanduser())), Path(output)
    if root.is_dir():
        files = [file for file in files if not file.is_relative_to(os.path.abspath(output))]
        if not files:
            raise unreadable(path, f"needed images or videos outside the output folder {output}, got none; "
                                   "write to another folder.")
    else:
        root = Path(os.path.commonpath([file.parent for file in files]))
    return {file: output / file.parent.relative_to(root) / name for file, name in _names(files).items()}


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """A name for each file that no other file of its folder has, whatever the case of letters."""
    def folded(file: Path, name: str) -> tuple[Path, str]:
        return file.parent, name.casefold()
    # Each once: a file without an ending has but one name.
    taken = Counter(key for file in files for key in {folded(file, file.stem), folded(file, file.name)})
    return {file: file.stem if taken[folded(file, file.stem)] == 1 else file.name for file in files}


def read_clip(path: str | os.PathLike, *, num_frames: int | None = None, frame_stride: int = 1,
              short_edge: int | None = None) -> Clip:
    """Read an image or the beginning of a video.

    Args:
        path: The file; an animated GIF is a video.
        num_frames: T at most; None: at most ``MAX_FRAMES``, and it is logged if there are more.
        frame_stride: Take every so many-th frame.
        short_edge: Resize the shorter side to so many pixels; None: leave it.

    Raises:
        DataError: If the file cannot be read.
        ValueError: If a number is below 1.

    Example:
        >>> from toolkit.data import sample_clips
        >>> clip = read_clip(sample_clips("eval")[0], num_frames=3, frame_stride=2, short_edge=72)
        >>> clip.pixels.shape, clip.more
        (torch.Size([3, 3, 72, 88]), True)
    """
    if min(frame_stride, *(n for n in (num_frames, short_edge) if n is not None), 1) < 1:
        raise ValueError("read_clip takes num_frames, frame_stride and short_edge of at least 1, got "
                         f"{num_frames}, {frame_stride} and {short_edge}.")
    suffix = Path(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES and suffix not in VIDEO_SUFFIXES:
        frames, fps, more = to_frames(read_image(path)), None, False
    else:
        with VideoFile(path) as video:
            fps = video.info.fps / frame_stride
        limit = num_frames or MAX_FRAMES
        taken = list(islice(iter_frames(path, frame_stride=frame_stride), limit + 1))
        if not taken:
            raise unreadable(path, "needed at least one frame, got none; check the file or leave it out.")
        frames, more = stack(taken[:limit], path=path), len(taken) > limit
        if more and num_frames is None:
            logger.warning("%s: the first %d frames are taken; it has more.", path, limit)
    if short_edge is not None:
        height, width = frames.shape[1:3]
        scale = short_edge / min(height, width)
        frames = resize(frames, size=(round(height * scale), round(width * scale)))
    return Clip(to_pixels(frames), fps, more)


@dataclass
class Reconstruction:
    """A clip after tokenizing and detokenizing, and what that cost.

    Attributes:
        pixels: (3, T, H, W), the input's own shape, not clamped.
        indices: (*positions, G) int64.
        bits_per_pixel: log2 K per index, over the T * H * W pixels of the input.
        psnr: Mean over frames, dB.
        ssim: Mean over frames; None where a side is below SSIM's window of 11.
        seconds: For encoding and decoding.
    """

    pixels: Tensor
    indices: Tensor
    bits_per_pixel: float
    psnr: float
    ssim: float | None
    seconds: float


def reconstruct(tokenizer: Tokenizer, pixels: Tensor) -> Reconstruction:
    """Tokens of a clip, pixels of the tokens, and their scores.

    Args:
        tokenizer: In eval mode; the work is done on its device.
        pixels: (3, T, H, W) in [-1, 1], any size.

    Raises:
        ValueError: If the tokenizer is continuous or takes other channels.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
        >>> result = reconstruct(tokenizer, torch.zeros(3, 2, 9, 15))
        >>> result.pixels.shape, result.indices.shape, round(result.bits_per_pixel, 3), result.ssim
        (torch.Size([3, 2, 9, 15]), torch.Size([2, 2, 2, 1]), 0.533, None)
    """
    device = tokenizer.decoder.last_layer.device
    batch = pixels[None].to(device)
    started = _now(device)
    indices, size = tokenizer.tokenize(batch, return_size=True)
    output = tokenizer.detokenize(indices, size)
    seconds = _now(device) - started
    codebook = Codebook(codebook_size=tokenizer.codebook_size, num_codebooks=tokenizer.num_codebooks)
    codebook.update(target=batch, reconstruction=output, indices=indices)
    psnr, ssim = PSNR(), SSIM() if min(size[1:]) >= 11 else None
    for metric in filter(None, (psnr, ssim)):
        # Frame by frame: both are means over frames, and SSIM's maps of a whole clip are large.
        for target, reconstruction in zip(batch.split(1, dim=2), output.split(1, dim=2), strict=True):
            metric.update(target=target, reconstruction=reconstruction, indices=None)
    return Reconstruction(output[0].cpu(), indices[0].cpu(), codebook.compute()["bits_per_pixel"],
                          psnr.compute()["psnr"], ssim and ssim.compute()["ssim"], seconds)


def _now(device: torch.device) -> float:
    """Seconds on a clock, after all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def write_results(path: Path, target: Tensor, reconstruction: Tensor, *, fps: float | None) -> None:
    """Write ``path``_reconstruction and ``path``_side_by_side, the input on the left.

    Clips become .mp4 (padded to even sides), single frames .png.

    Args:
        path: Folder and name without an ending; folders are made.
        target: (3, T, H, W) in [-1, 1].
        reconstruction: Of the same shape, clamped here.
        fps: Frames per second of a clip.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "folder" / "grey"
        >>> write_results(path, torch.zeros(3, 1, 8, 6), torch.zeros(3, 1, 8, 6), fps=None)
        >>> read_image(f"{path}_side_by_side.png").shape
        torch.Size([3, 1, 8, 12])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = {"reconstruction": reconstruction, "side_by_side": torch.cat([target, reconstruction], dim=-1)}
    for kind, pixels in pictures.items():
        file = path.with_name(f"{path.name}_{kind}")
        if pixels.shape[1] == 1:
            write_image(f"{file}.png", pixels)
        else:
            write_video(f"{file}.mp4", pixels, fps=fps)


def codebook_use(tokenizer: Tokenizer, results: Iterable[Reconstruction]) -> dict[str, float]:
    """How the files' indices together use the codebook: the scores of :class:`toolkit.metrics.Codebook`.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
        >>> use = codebook_use(tokenizer, [reconstruct(tokenizer, torch.zeros(3, 1, 16, 16))] * 2)
        >>> round(use["codebook_entropy_bound"], 3)   # ln of the eight positions
        2.079
    """
    codebook = Codebook(codebook_size=tokenizer.codebook_size, num_codebooks=tokenizer.num_codebooks,
                        digits=tokenizer.digits)
    for result in results:
        pixels = result.pixels.unsqueeze(0)
        codebook.update(target=pixels, reconstruction=pixels, indices=result.indices.unsqueeze(0))
    return codebook.compute()


def reconstruct_files(tokenizer: Tokenizer, files: dict[Path, Path], *, num_frames: int | None = None,
                      frame_stride: int = 1, short_edge: int | None = None,
                      ) -> Iterator[tuple[Path, Reconstruction | DataError]]:
    """Read, reconstruct and write files one after the other.

    Args:
        tokenizer: In eval mode.
        files: From :func:`find_files`.
        num_frames, frame_stride, short_edge: See :func:`read_clip`.

    Yields:
        (file, what came of it), an unreadable file's error among them.

    Example:
        >>> list(reconstruct_files(None, {Path("no.mp4"): Path("out/no")}))[0][1]
        DataError('no.mp4: needed a video that FFmpeg can decode, got No such file or directory; ...')
    """
    for file, path in files.items():
        try:
            clip = read_clip(file, num_frames=num_frames, frame_stride=frame_stride, short_edge=short_edge)
        except DataError as error:
            if len(files) > 1:  # a single one is the caller's to report
                logger.warning("skipped, unreadable: %s", file)
            yield file, error
            continue
        result = reconstruct(tokenizer, clip.pixels)
        write_results(path, clip.pixels, result.pixels, fps=clip.fps)
        yield file, result
