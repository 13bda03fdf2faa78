"""I3D, trained on Kinetics-400 (Carreira & Zisserman, arXiv:1705.07750): the network of the Fréchet video distance.

It is the RGB stream of DeepMind's kinetics-i3d. The weights are those of Wilson Yan's JAX port.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from toolkit import assets
from toolkit.pretrained.frozen import Frozen, load_strictly
from toolkit.pretrained.inception import Branches, normalized


class I3D(nn.Module):
    """Inflated Inception-v1 on clips of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv(3, 64, 7, stride=2),
            _SameMaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            _conv(64, 64, 1),
            _conv(64, 192, 3),
            _SameMaxPool3d((1, 3, 3), stride=(1, 2, 2)),
            _mixed(192, 64, (96, 128), (16, 32), 32),
            _mixed(256, 128, (128, 192), (32, 96), 64),
            _SameMaxPool3d(3, stride=2),
            _mixed(480, 192, (96, 208), (16, 48), 64),
            _mixed(512, 160, (112, 224), (24, 64), 64),
            _mixed(512, 128, (128, 256), (24, 64), 64),
            _mixed(512, 112, (144, 288), (32, 64), 64),
            _mixed(528, 256, (160, 320), (32, 128), 128),
            _SameMaxPool3d(2, stride=2),
            _mixed(832, 256, (160, 320), (32, 128), 128),
            _mixed(832, 384, (192, 384), (48, 128), 128),
            nn.AvgPool3d((2, 7, 7), stride=1),
            nn.Conv3d(1024, 400, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) in [-1, 1] -> logits (N, 400), averaged over time.

        Frames are resized to 224 x 224, bilinearly, without antialiasing, at half-pixel centres, as in the PyTorch
        evaluators of TATS and StyleGAN-V (Google's first evaluator resized as TensorFlow 1).
        """
        if clips.ndim != 5 or clips.shape[1] != 3 or clips.shape[2] < 10:
            raise ValueError(f"I3D needs clips (N, 3, T, H, W) of at least 10 frames, got {tuple(clips.shape)}; "
                             "use longer clips, or a metric of frames.")
        frames = rearrange(clips, "n c t h w -> (n t) c h w")
        frames = F.interpolate(frames, size=(224, 224), mode="bilinear", align_corners=False)
        logits = self.layers(rearrange(frames, "(n t) c h w -> n c t h w", n=len(clips)))  # (N, 400, t, 1, 1)
        return logits.mean((2, 3, 4))


def i3d_network() -> Frozen:
    """I3D, whose Kinetics-400 logits FVD compares (Unterthiner et al., arXiv:1812.01717).

    Returns:
        A frozen :class:`I3D`: clips (N, 3, T, H, W) in [-1, 1] -> (N, 400). It raises a ValueError if T < 10.

    Example:
        >>> i3d_network()(torch.zeros(1, 3, 10, 32, 32)).shape
        torch.Size([1, 400])
    """
    with torch.device("meta"):
        network = I3D()
    load_strictly(network, assets.weights_path("weights/i3d_kinetics400", convert=i3d_kinetics400),
                  who="i3d_network")
    return Frozen(network)


def i3d_kinetics400(path: Path) -> dict[str, np.ndarray]:
    """The flax checkpoint's tensors, which have the order of our layers, under the names of :class:`I3D`."""
    checkpoint = assets.read_arrays(path)
    with torch.device("meta"):
        names = I3D().state_dict()
    arrays = _layer_arrays(checkpoint["params"], checkpoint["batch_stats"])
    return dict(zip(names, map(np.ascontiguousarray, arrays), strict=True))


def _layer_arrays(params: dict[str, Any], statistics: dict[str, Any]) -> Iterator[np.ndarray]:
    """Kernel, beta, mean and variance of each layer; kernel and bias of the last layer."""
    for name, layer in params.items():
        if "Conv_0" not in layer:
            yield from _layer_arrays(layer, statistics.get(name, {}))
            continue
        yield layer["Conv_0"]["kernel"].transpose(4, 3, 0, 1, 2)  # (kt, kh, kw, in, out) to (out, in, kt, kh, kw)
        if "BatchNorm_0" in layer:
            yield layer["BatchNorm_0"]["bias"]
            yield from (statistics[name]["BatchNorm_0"][which].ravel() for which in ("mean", "var"))
        else:
            yield layer["Conv_0"]["bias"]


class _SameConv3d(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_pad_same(x, self.kernel_size, self.stride))


class _SameMaxPool3d(nn.MaxPool3d):
    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = ((n,) * 3 if isinstance(n, int) else n for n in (self.kernel_size, self.stride))
        return super().forward(_pad_same(x, kernel, stride))  # inputs follow a ReLU: none is below 0


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME padding: ceil(size / stride) outputs; an odd number of zeros has one more at the end."""
    sides = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        sides.append((total // 2, total - total // 2))
    return F.pad(x, [n for side in reversed(sides) for n in side]) if any(map(any, sides)) else x


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    return normalized(_SameConv3d(inputs, outputs, kernel, stride=stride, bias=False))


def _mixed(inputs: int, single: int, double: tuple[int, int], narrow: tuple[int, int], pooled: int) -> Branches:
    """An Inception-v1 block; the numbers are the channels of its branches."""
    return Branches([
        _conv(inputs, single, 1),
        *(nn.Sequential(_conv(inputs, inner, 1), _conv(inner, outer, 3)) for inner, outer in (double, narrow)),
        nn.Sequential(_SameMaxPool3d(3, stride=1), _conv(inputs, pooled, 1))])
