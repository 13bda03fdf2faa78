"""check_encoder, check_decoder and check_discriminator accept valid components and name violations."""

from __future__ import annotations

import pytest
import torch
from testing.variants import check, variant
from torch import nn

from toolkit.contracts import Decoder, Discriminator, Encoder
from toolkit.layers import CausalConv3d
from toolkit.testing import ContractViolation, check_encoder


class SmallEncoder(Encoder):
    """A good one to break, of stride (2, 2, 2)."""

    in_channels, out_channels, stride, first_frame_alone, causal = 3, 4, (2, 2, 2), True, True

    def __init__(self):
        super().__init__()
        self.conv = CausalConv3d(3, 4, kernel_size=(3, 3, 3), stride=(2, 2, 2))

    def forward(self, pixels, cache=None):
        return self.conv(pixels, cache)


class Acausal(SmallEncoder):
    """A good one that depends on later frames."""

    causal = False

    def forward(self, pixels, cache=None):
        return self.conv(pixels) + pixels.mean((1, 2, 3, 4), keepdim=True)


class Patches(SmallEncoder):
    """A good one whose first frame does not stand alone."""

    first_frame_alone, causal = False, False

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, (2, 2, 2), stride=(2, 2, 2))

    def forward(self, pixels, cache=None):
        return self.conv(pixels)


class ChangesInEval(SmallEncoder):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, pixels, cache=None):
        self.calls += 1
        return super().forward(pixels, cache)


class UnsavedWeight(SmallEncoder):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.randn(()), persistent=False)

    def forward(self, pixels, cache=None):
        return super().forward(pixels, cache) + self.shift


class OneSize(SmallEncoder):
    """A good one of images of one size."""

    causal = False

    def grid(self, size):
        if tuple(size) != (1, 8, 8):
            raise ValueError(f"OneSize takes (1, 8, 8), got {size}.")
        return 1, 4, 4


class SmallDecoder(Decoder):
    """A good one to break, of stride (1, 2, 2)."""

    in_channels, out_channels, stride, first_frame_alone, causal = 4, 3, (1, 2, 2), True, True

    def __init__(self):
        super().__init__()
        self.conv = CausalConv3d(4, 3, kernel_size=(3, 3, 3))

    @property
    def last_layer(self):
        return self.conv.weight

    def forward(self, codes, cache=None):
        return self.conv(codes, cache).repeat_interleave(2, 3).repeat_interleave(2, 4)


class OtherLastLayer(SmallDecoder):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))

    @property
    def last_layer(self):
        return self.unused


class Judge(Discriminator):
    """A good one to break."""

    in_channels, size = 3, (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 64, 1)

    def forward(self, pixels):
        if tuple(pixels.shape[2:]) != self.size:
            raise ValueError("another size")
        return self.linear(pixels.flatten(1))


class AnySize(Judge):
    size = None

    def forward(self, pixels):
        return pixels.mean((1, 2, 3, 4)) * self.linear.weight.sum()


class DeclaredBatchStatistics(Judge):
    batch_statistics = True

    def forward(self, pixels):
        logits = super().forward(pixels)
        return logits - logits.mean() if self.training else logits


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient


@pytest.mark.parametrize("component", [
    SmallEncoder(), Patches(), Acausal(), SmallDecoder(), Judge(), AnySize(), DeclaredBatchStatistics(),
], ids=lambda component: type(component).__name__)
def test_valid_component_passes(component):
    check(component)


def test_network_of_one_size_is_checked_at_that_size():
    check_encoder(OneSize(), sizes=[(1, 8, 8)])


@pytest.mark.parametrize(("component", "message"), [
    (variant(Acausal, causal=True), "nothing depends on later frames.*causal = False"),
    (variant(SmallEncoder, forward=lambda self, pixels, cache=None: self.conv(pixels)),
     "a stream through its cache gives what the whole gives.*pass the cache to every layer"),
    (variant(SmallEncoder, stride=(1, 2, 2)),
     r"needed latents \(2, 4, 2, 3, 2\) of torch.float32 .*stride \(1, 2, 2\).*got"),
    (variant(Patches, first_frame_alone=True), "the latents have the size that grid tells.*RuntimeError"),
    (OneSize(), r"grid and fitting_size tell the sizes.*takes \(1, 8, 8\).*give check_encoder sizes"),
    (variant(SmallEncoder, forward=lambda self, pixels: self.conv(pixels)),
     "the latents have the size that grid tells.*TypeError.*write forward"),
    (variant(SmallEncoder, fitting_size=lambda self, size: (1, 2, 2)), "needed a fitting size that contains"),
    (variant(Judge, forward=lambda self, pixels: Judge.forward(self, Once.apply(pixels)).square()),
     "its gradient at the pixels can be differentiated"),
    (variant(SmallEncoder, forward=lambda self, pixels, cache=None: SmallEncoder.forward(
        self, 2 * pixels if self.activation_checkpointing else pixels, cache)),
     "activation checkpointing changes memory, not results"),
    (variant(SmallEncoder, stride=8), r"needed stride \(s_t, s_h, s_w\), ints of at least 1, got 8; set self.stride"),
    (variant(SmallEncoder, forward=lambda self, pixels, cache=None: self.conv(pixels, cache).half()),
     "of torch.float16; correct forward"),
    (variant(SmallEncoder, forward=lambda self, pixels, cache=None: self.conv(pixels.detach(), cache)),
     "the gradient reaches the input.*do not detach"),
    (variant(SmallEncoder, forward=lambda self, pixels, cache=None: self.conv(pixels - pixels.mean())),
     "in eval mode a sample's result does not depend on the rest"),
    (variant(SmallEncoder, forward=lambda self, pixels, cache=None:
             nn.functional.dropout(SmallEncoder.forward(self, pixels, cache))),
     "in eval mode the same input gives the same output.*only if self.training"),
    (ChangesInEval(), r"eval mode changes no state.*changes of \['calls'\]"),
    (UnsavedWeight(), "saved and loaded, it gives the same.*persistent buffers"),
    (variant(SmallEncoder, forward=lambda self, pixels, cache=None:
             SmallEncoder.forward(self, 2 * pixels if self.activation_checkpointing else pixels, cache)),
     "activation checkpointing changes memory, not results"),
    (OtherLastLayer(), "last_layer is the weight that makes the pixels.*got none; return the last convolution's"),
    (variant(SmallDecoder, last_layer=property(lambda self: self.conv.weight.detach())),
     "needed one of the decoder's parameters, got Tensor"),
    (variant(SmallDecoder, out_channels=1), r"needed pixels \(2, 1, 1, 4, 4\) .*got \(2, 3, 1, 4, 4\)"),
    (variant(SmallDecoder, forward=lambda self, codes, cache=None: SmallDecoder.forward(self, codes.flip(2)).flip(2)),
     "nothing depends on later frames.*CausalConv3d"),
    (variant(Judge, forward=lambda self, pixels: self.linear(pixels.flatten(1))),
     r"needed a ValueError for pixels of size \(2, 8, 8\), got RuntimeError"),
    (variant(Judge, forward=lambda self, pixels: Judge.forward(self, pixels).mean()),
     r"needed \(3, ...\) of a float dtype.*got \(\) of torch.float32; keep the batch first"),
    (variant(Judge, forward=lambda self, pixels: Judge.forward(self, pixels) - Judge.forward(self, pixels).mean()),
     "does not depend on the rest of its batch.*or set batch_statistics = True"),
    (variant(Judge, forward=lambda self, pixels: Judge.forward(self, pixels) / 0),
     "needed finite logits, got NaN or infinity"),
], ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "")
def test_violation_is_named(component, message):
    with pytest.raises(ContractViolation, match=f"(?s)^{type(component).__name__} fails the check .*{message}"):
        check(component)
