"""Plain versions of the toolkit's computations, for comparison only.

They use the toolkit's weights and return the same numbers. The networks have contiguous (NCDHW) tensors and full
3-D kernels on single frames, and store every activation. The entropy is a softmax over all codes.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from toolkit import Tokenizer
from toolkit.layers import CausalConv3d, DepthToSpaceUpsample, ResBlock
from toolkit.networks import StyleGANDiscriminator


def full_softmax_entropies(latents: Tensor, inv_temperature: float) -> tuple[Tensor, Tensor]:
    """``toolkit.quantizers.entropy.binary_entropies`` from the probabilities of all 2^bits codes per position.

    Args:
        latents: (N, bits).
        inv_temperature: The logit of code c is ``2 * inv_temperature * <latents, c>``.

    Returns:
        per_sample and codebook entropy, () each, in nats.
    """
    bits = latents.shape[1]
    powers = 2 ** torch.arange(bits - 1, -1, -1)
    codes = ((torch.arange(2**bits)[:, None] & powers) > 0).to(latents.dtype) * 2 - 1  # (K, bits)
    log_probabilities = (2 * inv_temperature * latents @ codes.T).log_softmax(dim=1)  # (N, K)
    probabilities = log_probabilities.exp()
    per_sample = -(probabilities * log_probabilities).sum(1).mean()
    average = probabilities.mean(0)
    return per_sample, -(average * (average + 1e-5).log()).sum()


def convolve(conv: CausalConv3d, x: Tensor) -> Tensor:
    """Pad with F.pad, which copies the tensor, then convolve."""
    k_t, k_h, k_w = conv.kernel_size
    padding = ((k_w - 1) // 2, k_w // 2, (k_h - 1) // 2, k_h // 2, k_t - 1, 0)  # of W, H and T
    return F.conv3d(F.pad(x, padding, mode=conv.pad_mode), conv.weight, conv.bias, conv.stride)


def normalize(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalisation of each frame."""
    frames = rearrange(x, "b c t h w -> (b t) c h w")
    frames = F.group_norm(frames, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))


def res_block(block: ResBlock, x: Tensor) -> Tensor:
    """norm, SiLU, conv, twice, plus the input."""
    residual = convolve(block.conv1, F.silu(normalize(block.norm1, x)))
    residual = convolve(block.conv2, F.silu(normalize(block.norm2, residual)))
    return (x if isinstance(block.shortcut, nn.Identity) else convolve(block.shortcut, x)) + residual


def upsample(layer: DepthToSpaceUpsample, x: Tensor) -> Tensor:
    """Convolve, move depth to space, then drop the first s_t - 1 frames."""
    s_t, s_h, s_w = layer.stride
    x = rearrange(convolve(layer.conv, x), "b (st sh sw c) t h w -> b c (t st) (h sh) (w sw)", st=s_t, sh=s_h, sw=s_w)
    return x[:, :, s_t - 1:]


class PlainTokenizer(nn.Module):
    """A MAGVIT-v2 tokenizer of the toolkit (GroupNorm of each frame, adaptive in the decoder), computed plainly.

    Args:
        tokenizer: Its weights are copied.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = copy.deepcopy(tokenizer).to(memory_format=torch.contiguous_format)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, T, H, W) -> latents (B, d, t, h, w)."""
        encoder = self.tokenizer.encoder
        x = convolve(encoder.conv_in, pixels)
        for level in encoder.levels:
            for block in level.blocks:
                x = res_block(block, x)
            if level.downsample is not None:
                x = convolve(level.downsample, x)
        for block in encoder.mid:
            x = res_block(block, x)
        return convolve(encoder.conv_out, F.silu(normalize(encoder.norm_out, x)))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, d, t, h, w) -> pixels (B, C, T, H, W)."""
        decoder, codes = self.tokenizer.decoder, codes.contiguous()
        x = convolve(decoder.conv_in, codes)
        for block in decoder.mid:
            x = res_block(block, x)
        for level in decoder.levels:
            gamma, beta = (rearrange(linear(rearrange(codes, "b d t h w -> b t h w d")), "b t h w c -> b c t h w")
                           for linear in (level.norm.gamma, level.norm.beta))
            x = normalize(level.norm.norm, x) * (1 + gamma) + beta
            for block in level.blocks:
                x = res_block(block, x)
            if level.upsample is not None:
                s_t, s_h, s_w = level.upsample.stride
                codes = repeat(codes, "b d t h w -> b d (t st) (h sh) (w sw)", st=s_t, sh=s_h, sw=s_w)[:, :, s_t - 1:]
                x = upsample(level.upsample, x)
        return convolve(decoder.conv_out, F.silu(normalize(decoder.norm_out, x)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels -> reconstruction, latents, and the latents' signs with a straight-through gradient."""
        latents = self.encode(pixels)
        codes = latents + (torch.where(latents > 0, 1.0, -1.0) - latents).detach()
        return self.decode(codes), latents, codes


def blur(x: Tensor) -> Tensor:
    """Reflect, filter by (1, 2, 1) / 4 along T, H and W, and take every other entry."""
    x = F.pad(x, (1,) * 6, mode="reflect")
    for dim in (2, 3, 4):
        length = x.shape[dim]
        before, here, after = (x[(slice(None),) * dim + (slice(start, length - 2 + start, 2),)] for start in range(3))
        x = (before + after) * 0.25 + here * 0.5
    return x


def discriminate(network: StyleGANDiscriminator, pixels: Tensor) -> Tensor:
    """Logits (B, 1) of a discriminator with temporal kernel 3 and reflected blurs."""
    x = F.leaky_relu(network.conv_in(pixels), 0.2)
    for block in network.blocks:
        residual = F.leaky_relu(block.conv1(x), 0.2)
        residual = F.leaky_relu(block.conv2(blur(residual)), 0.2)
        x = (residual + block.shortcut(blur(x))) / math.sqrt(2)
    x = F.leaky_relu(network.conv_out(x), 0.2)
    return network.linear2(F.leaky_relu(network.linear1(x.flatten(1)), 0.2))
