"""Tokens of a video chunk by chunk, and its pixels again, in memory that does not grow with its length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.contracts import Decoder, Encoder, Quantizer

Size = tuple[int, int, int]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode without autocast within; afterwards every submodule has its own mode again."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    device = next((parameter.device.type for parameter in module.parameters()), "cpu")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for child, training in modes:
            child.training = training


def check_size(who: str, size: Any) -> None:
    """Raise ValueError unless ``size`` is None or three whole numbers."""
    if size is None:
        return
    sides = list(size) if isinstance(size, Iterable) and not isinstance(size, str) else []
    if len(sides) != 3 or not all(hasattr(side, "__index__") for side in sides):
        raise ValueError(f"{who} takes a size of three whole numbers (T, H, W), got {size!r}; tokenize(pixels, "
                         "return_size=True) returns it.")


class StreamingMixin:
    """The streaming half of :class:`toolkit.Tokenizer`.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer)
        >>> chunks = list(tokenizer.tokenize_stream(torch.zeros(1, 3, 6, 8, 8).split(3, dim=2)))
        >>> [tuple(indices.shape) for indices in chunks]
        [(1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)]
        >>> [tuple(pixels.shape) for pixels in tokenizer.detokenize_stream(chunks, size=(6, 8, 8))]
        [(1, 3, 1, 8, 8), (1, 3, 4, 8, 8), (1, 3, 1, 8, 8)]
    """

    encoder: Encoder
    quantizer: Quantizer
    decoder: Decoder

    @torch.no_grad()
    def tokenize_stream(self, clips: Iterable[Tensor]) -> Iterator[Tensor]:
        """Tokenize a video of any length chunk by chunk.

        Args:
            clips: The chunks (B, C, T, H, W) of one video in order, of any T. A chunk that completes no position
                yields nothing yet; the end is padded as :meth:`tokenize` does.

        Yields:
            Indices (B, t, h, w, G); joined along t they are those of the whole video.

        Raises:
            ValueError: If the encoder or quantizer cannot be streamed, or :meth:`tokenize` does not take a chunk.
        """
        self._check_streamed(self.encoder)
        cache: dict[Any, Any] = {}
        frames, last = 0, None
        for clip in clips:
            if getattr(clip, "ndim", None) != 5 or clip.shape[2]:  # chunks without frames are skipped
                self._check_pixels(clip)
                if last is not None and clip[:, :, -1:].shape != last.shape:
                    raise ValueError(f"Tokenizer.tokenize_stream takes chunks of one video, got {tuple(clip.shape)} "
                                     f"after (B, C, T, H, W) = {tuple(last.shape)}.")
                frames, last = frames + clip.shape[2], clip[:, :, -1:]
                yield from self._stream_indices(clip, cache)
        if last is not None and (missing := self.fitting_size((frames, *last.shape[3:]))[0] - frames):
            yield from self._stream_indices(last.expand(-1, -1, missing, -1, -1), cache)

    @torch.no_grad()
    def detokenize_stream(self, indices: Iterable[Tensor], size: Size | None = None) -> Iterator[Tensor]:
        """Indices (B, t, h, w, G) of one video in chunks -> its pixels (B, C, T, H, W) in chunks, not clamped.

        Args:
            indices: The chunks in order, as from :meth:`tokenize_stream` or cut anywhere along t.
            size: (T, H, W) of the video, with which the padding is cropped off.

        Raises:
            ValueError: If the decoder or quantizer cannot be streamed, :meth:`detokenize` does not take a chunk, pixels
                are not finite, or all chunks do not fill ``size``.
        """
        self._check_streamed(self.decoder)
        check_size("Tokenizer.detokenize_stream", size)
        cache: dict[Any, Any] = {}
        frames, first = 0, None  # (B, h, w, G) of the first chunk
        for chunk in indices:
            if getattr(chunk, "ndim", None) == 5:
                first = first or (chunk.shape[0], *chunk.shape[2:])
                if (chunk.shape[0], *chunk.shape[2:]) != first:
                    raise ValueError(f"Tokenizer.detokenize_stream takes chunks of one video, got {tuple(chunk.shape)} "
                                     f"after (B, h, w, G) = {first}.")
            with evaluating(self):
                pixels = self._decoded(self.decoder(self._codes(chunk), cache))
            if size is not None:
                if not (0 < size[1] <= pixels.shape[3] and 0 < size[2] <= pixels.shape[4]):
                    raise ValueError("Tokenizer.detokenize_stream needs (H, W) of the size from (1, 1) to "
                                     f"{tuple(pixels.shape[3:])} for indices {tuple(chunk.shape)}, got "
                                     f"{tuple(size[1:])}.")
                pixels = pixels[:, :, :max(0, size[0] - frames), :size[1], :size[2]]
            frames += pixels.shape[2]
            if pixels.shape[2]:
                yield pixels
        if size is not None and frames != size[0]:
            raise ValueError(f"Tokenizer.detokenize_stream needs chunks of {size[0]} frames, as size says, got "
                             f"{frames} frames; give all chunks of the video.")

    @property
    def why_not_streamed(self) -> str | None:
        """The reason why a video cannot be streamed through both networks, or None where it can."""
        return self._why_not(self.encoder) or self._why_not(self.decoder)

    def _check_streamed(self, network: Encoder | Decoder) -> None:
        if reason := self._why_not(network):
            raise ValueError(f"Tokenizer cannot stream: its {reason}; give whole clips to tokenize and detokenize.")

    def _why_not(self, network: Encoder | Decoder) -> str | None:
        if not network.causal:
            return (f"{type(network).__name__} is not causal: a frame's output depends on later frames (in MAGVIT2 "
                    "networks, norm_scope='clip')")
        if type(self.quantizer).positions is not Quantizer.positions or not self.quantizer.codebook_size:
            return f"{type(self.quantizer).__name__} has no grid of indices, position by position"
        return None

    def _stream_indices(self, pixels: Tensor, cache: dict[Any, Any]) -> Iterator[Tensor]:
        _, height, width = self.fitting_size((1, *pixels.shape[3:]))
        with evaluating(self):
            indices = self._indices(self._pad(pixels, (pixels.shape[2], height, width)), cache)
        if indices.shape[1]:
            yield indices
