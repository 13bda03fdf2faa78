"""The tokenizer: an encoder, a quantizer and a decoder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.contracts import Component, Decoder, Encoder, Quantizer, QuantizerOutput, TokenizerOutput
from toolkit.contracts.pixels import check_dtype, check_finite, check_float_pixels, check_pixel_values, describe
from toolkit.saving import TokenizerSource, save_component
from toolkit.streaming import Size, StreamingMixin, check_size, evaluating

_ADVICE = "look for NaN in the weights, and for overflow in half precision"


class Tokenizer(StreamingMixin, Component, nn.Module):
    """Pixels to a grid of integers and back.

    It takes every size that its encoder can be padded to: time by repeating the last frame, space by repeating the
    border. Outputs are cropped back. :meth:`tokenize`, :meth:`detokenize` and the streams run in eval mode, whatever
    the mode of the module.

    Pixels are tensors of the weights' dtype (under autocast :meth:`encode` and ``forward`` take half precision too).
    Integer pixels, NaN and values beyond +-8 (such as 0 to 255) raise ValueError. Values a little outside [-1, 1], as
    bicubic resizing gives, are accepted. ``forward`` in train mode and compiled code do not check values.

    Args:
        encoder: (B, C, T, H, W) -> (B, d, t, h, w).
        quantizer: Its ``dim`` is d.
        decoder: (B, d, t, h, w) -> (B, C, T, H, W), of the encoder's stride.

    Attributes:
        quantization: Interpolates the decoder's input in training from latents (0, a bypass) to codes (1); eval mode
            always decodes the codes.
        source: Where :func:`toolkit.load_tokenizer` loaded it from; None if it was built.

    Raises:
        ValueError: If the channels, strides or framing of the three do not agree.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer).eval()
        >>> indices, size = tokenizer.tokenize(torch.zeros(1, 3, 4, 31, 33), return_size=True)
        >>> tuple(indices.shape[1:4]) == tokenizer.grid((4, 31, 33)), tokenizer.detokenize(indices, size).shape
        (True, torch.Size([1, 3, 4, 31, 33]))
    """

    def __init__(self, encoder: Encoder, quantizer: Quantizer, decoder: Decoder):
        super().__init__()
        if not encoder.out_channels == quantizer.dim == decoder.in_channels:
            raise ValueError(f"Tokenizer needs one latent width, got encoder.out_channels={encoder.out_channels}, "
                             f"quantizer.dim={quantizer.dim}, decoder.in_channels={decoder.in_channels}; leave the "
                             "first and the last out of the config and they follow the quantizer.")
        shapes = [(tuple(network.stride), network.first_frame_alone) for network in (encoder, decoder)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"Tokenizer needs an encoder and a decoder of one stride, got {shapes[0][0]} and "
                             f"{shapes[1][0]} (first frame alone: {shapes[0][1]} and {shapes[1][1]}).")
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.quantization = 1.0
        self.source: TokenizerSource | None = None

    @property
    def stride(self) -> Size:
        """The encoder's (s_t, s_h, s_w), frames, rows and columns of one latent; sizes are asked of :meth:`grid`."""
        return tuple(self.encoder.stride)

    @property
    def codebook_size(self) -> int:
        """K of one codebook, 0 for a continuous bottleneck."""
        return self.quantizer.codebook_size

    @property
    def num_codebooks(self) -> int:
        """G, codebooks per position."""
        return self.quantizer.num_codebooks

    @property
    def digits(self) -> tuple[int, ...]:
        """Sizes of the digits of an index, most significant first."""
        return self.quantizer.digits

    @property
    def config(self) -> dict[str, Any]:
        """What :func:`toolkit.build_tokenizer` needs to build it again."""
        return {"encoder": self.encoder.config, "quantizer": self.quantizer.config,
                "decoder": self.decoder.config}

    def encode(self, pixels: Tensor) -> QuantizerOutput:
        """Pixels (B, C, T, H, W) in [-1, 1] -> codes (B, d, t, h, w), indices (B, *positions, G), losses.

        Raises:
            ValueError: If the pixels are not 5-D with the encoder's channels, float, finite and about [-1, 1].
        """
        self._check_pixels(pixels, autocast=True)
        return self.quantizer(self.encoder(self._pad(pixels)))

    def decode(self, codes: Tensor, size: Size | None = None) -> Tensor:
        """Codes (B, d, t, h, w) -> pixels (B, C, T, H, W), not clamped, cropped to ``size`` if given.

        Raises:
            ValueError: If the codes are of another type or shape, or cannot fill ``size``.
        """
        if not (isinstance(codes, Tensor) and codes.is_floating_point() and codes.ndim == 5
                and codes.shape[1] == self.quantizer.dim and 0 not in codes.shape):
            raise ValueError(f"Tokenizer.decode takes float codes (B, {self.quantizer.dim}, t, h, w), got "
                             f"{describe(codes)}; detokenize takes indices.")
        check_size("Tokenizer.decode", size)
        if not torch.compiler.is_compiling():
            check_dtype("Tokenizer.decode takes codes", codes, self.decoder, name="codes", autocast=True)
        pixels = self.decoder(codes)
        if size is None:
            return pixels
        if not all(0 < cropped <= whole for cropped, whole in zip(size, pixels.shape[2:], strict=True)):
            raise ValueError(f"Tokenizer.decode makes (T, H, W) = {tuple(pixels.shape[2:])} of codes "
                             f"{tuple(codes.shape)}, which cannot be cropped to {tuple(size)}.")
        t, h, w = size
        return pixels[:, :, :t, :h, :w]

    @torch.no_grad()
    def tokenize(self, pixels: Tensor, return_size: bool = False) -> Tensor | tuple[Tensor, Size]:
        """Pixels (B, C, T, H, W) in [-1, 1] -> indices (B, *positions, G) int64.

        Args:
            pixels: Images (T = 1) or clips.
            return_size: Also return (T, H, W), with which :meth:`detokenize` crops the padding off.

        Raises:
            ValueError: If the quantizer is continuous, the pixels are not 5-D float about [-1, 1], or latents or codes
                are not finite.
        """
        self._check_pixels(pixels)
        with evaluating(self):
            indices = self._indices(self._pad(pixels))
        return (indices, tuple(pixels.shape[2:])) if return_size else indices

    @torch.no_grad()
    def detokenize(self, indices: Tensor, size: Size | None = None) -> Tensor:
        """Indices (B, *positions, G) -> pixels (B, C, T, H, W), not clamped, cropped to ``size`` if given.

        Args:
            indices: Of any integer dtype, on the weights' device.
            size: (T, H, W), as :meth:`tokenize` returns it.

        Raises:
            ValueError: If the indices are no such tensor, empty, not of this codebook or too few for ``size``, or the
                pixels are not finite.
        """
        check_size("Tokenizer.detokenize", size)
        with evaluating(self):
            codes = self._codes(indices, size)
            if not codes.numel():
                raise ValueError(f"Tokenizer.detokenize takes indices of one position at least, got none in "
                                 f"{tuple(indices.shape)}.")
            return self._decoded(self.decode(codes, size))

    def forward(self, pixels: Tensor) -> TokenizerOutput:
        """Pixels (B, C, T, H, W) in [-1, 1] -> reconstruction of that shape, latents, codes, indices, losses."""
        self._check_pixels(pixels, autocast=True, values=not self.training)
        latents = self.encoder(self._pad(pixels))
        quantized = self.quantizer(latents)
        codes = quantized.codes
        if self.training and self.quantization < 1:
            codes = latents + self.quantization * (codes - latents)
        reconstruction = self.decode(codes, tuple(pixels.shape[2:]))
        return TokenizerOutput(reconstruction, latents, codes, quantized.indices, quantized.losses)

    def grid(self, size: Size) -> Size:
        """The latent grid (t, h, w) of pixels of size (T, H, W), as :meth:`toolkit.Encoder.grid`."""
        return self.encoder.grid(size)

    def fitting_size(self, size: Size) -> Size:
        """The (T, H, W) that pixels are padded to, as :meth:`toolkit.Encoder.fitting_size`."""
        return self.encoder.fitting_size(size)

    def _pad(self, pixels: Tensor, size: Size | None = None) -> Tensor:
        """Repeat the last frame, row and column up to ``size``, by default the fitting size."""
        own = tuple(pixels.shape[2:])
        t, h, w = self.fitting_size(own) if size is None else size
        if (t, h, w) == own:
            return pixels
        return F.pad(pixels, (0, w - own[2], 0, h - own[1], 0, t - own[0]), mode="replicate")

    def _indices(self, pixels: Tensor, cache: dict[Any, Any] | None = None) -> Tensor:
        """Indices of pixels that fit, or of a stream's next chunk, in the mode that the module is in."""
        if self.codebook_size == 0:
            raise ValueError(f"Tokenizer.tokenize needs a discrete quantizer, got {type(self.quantizer).__name__}; "
                             "use encode.")
        latents = self.encoder(pixels, cache)
        check_finite(latents, f"Tokenizer needs finite latents of {type(self.encoder).__name__}", _ADVICE)
        out = self.quantizer(latents)
        check_finite(out.codes, f"Tokenizer needs finite codes of {type(self.quantizer).__name__}", _ADVICE)
        return out.indices

    def _codes(self, indices: Tensor, size: Size | None = None) -> Tensor:
        """Codes of indices in the decoder's dtype; ``size`` (T, H, W) tells the grid where the indices do not."""
        codes = self.quantizer.codes_from_indices(indices, None if size is None else self.grid(size))
        return codes.to(self.decoder.last_layer.dtype)

    def _decoded(self, pixels: Tensor) -> Tensor:
        """The decoder's pixels, if they are finite."""
        check_finite(pixels, f"Tokenizer needs finite pixels of {type(self.decoder).__name__}", _ADVICE)
        return pixels

    def _check_pixels(self, pixels: Tensor, *, autocast: bool = False, values: bool = True) -> None:
        """Raise ValueError for invalid pixels; ``autocast``: the encoder runs under the caller's autocast."""
        check_float_pixels("Tokenizer", pixels, role=" of the weights' dtype")
        channels = self.encoder.in_channels
        if pixels.ndim != 5 or pixels.shape[1] != channels or 0 in pixels.shape:
            raise ValueError(f"Tokenizer takes pixels (B, {channels}, T, H, W), got {tuple(pixels.shape)}; "
                             "an image is T = 1.")
        if torch.compiler.is_compiling():
            return
        check_dtype("Tokenizer takes float pixels in [-1, 1]", pixels, self.encoder, name="pixels", autocast=autocast)
        if values:
            check_pixel_values("Tokenizer", pixels)

    def save_pretrained(self, directory: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write ``config.json`` and ``model.safetensors``, all that :func:`load_tokenizer` needs.

        With float16 the loaded tokenizer is another one: its latents differ a little, and those near a boundary get
        another index. Make tokens and scores with the tokenizer as it is loaded.

        Args:
            directory: It is made if it does not exist.
            dtype: Of the float tensors in the file, float32 or float16. The quantizer's stay float32, because rounding
                could make two codes equal. Loaded weights are float32, with exactly the stored values.

        Raises:
            ValueError: If a value is beyond the range of ``dtype``, or ``dtype`` is another one.

        Example:
            >>> import tempfile
            >>> from toolkit import build_tokenizer, load_config, load_tokenizer
            >>> tokenizer = build_tokenizer(load_config("configs/demo_video.py").tokenizer)
            >>> folder = Path(tempfile.mkdtemp())
            >>> tokenizer.save_pretrained(folder, dtype=torch.float16)
            >>> round((folder / "model.safetensors").stat().st_size / sum(p.numel() for p in tokenizer.parameters()), 1)
            2.0
            >>> next(load_tokenizer(folder).parameters()).dtype
            torch.float32
        """
        save_component(self, directory, dtype=dtype)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload the files of :meth:`save_pretrained` to the Hugging Face hub; returns the commit's address."""
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            return str(api.upload_folder(repo_id=repo_id, folder_path=directory))
