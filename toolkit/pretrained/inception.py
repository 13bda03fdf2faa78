"""Inception-2015-12-05, the network of the Fréchet inception distance.

TensorFlow's graph of that date differs from the published Inception-v3 and from torchvision's: average pools exclude
the padding, the last block has a maximum pool, and frames are resized as in TensorFlow 1. This file follows
torch-fidelity's ``FeatureExtractorInceptionV3`` (Obukhov et al., Apache-2.0): same weights, same output.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit import assets
from toolkit.pretrained.frozen import Frozen, load_strictly


class Normalize(nn.Module):
    """Batch normalisation with the training set's statistics and a shift, eps 1e-3: (N, channels, ...), same shape."""

    def __init__(self, channels: int):
        super().__init__()
        for name in ("beta", "mean", "var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, bias=self.beta, eps=1e-3)


class Branches(nn.ModuleList):
    """Modules side by side; their outputs are concatenated along the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


def normalized(convolution: nn.Module) -> nn.Sequential:
    """Convolution, :class:`Normalize`, ReLU. The tensors have the published order: kernel, beta, mean, var."""
    return nn.Sequential(convolution, Normalize(convolution.out_channels), nn.ReLU(inplace=True))


def resize_as_tensorflow(frames: Tensor, *, size: int) -> Tensor:
    """TensorFlow 1's bilinear resizing: (N, C, H, W) -> (N, C, size, size).

    Output pixel i samples the input at i * scale; PyTorch samples at (i + 1/2) * scale - 1/2.
    """
    for dim in (3, 2):
        length = frames.shape[dim]
        position = torch.arange(size, dtype=torch.float32, device=frames.device) * (length / size)
        lower = position.long()
        upper = (lower + 1).clamp(max=length - 1)
        weight = (position - lower).view(-1, *(1,) * (3 - dim))
        first = frames.index_select(dim, lower)
        frames = first + (frames.index_select(dim, upper) - first) * weight
    return frames


class Inception(nn.Module):
    """Frames of any size, resized to 299 x 299, through the first layers; the output is averaged over positions."""

    def __init__(self, layers: nn.Module, *, value_type: str = "uint8"):
        super().__init__()
        self.layers = layers
        self.value_type = value_type

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [-1, 1] -> (N, features)."""
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"Inception needs frames (N, 3, H, W), got {tuple(frames.shape)}.")
        values = (frames + 1) * 127.5
        if self.value_type == "uint8":
            values = values.round().clamp(0, 255)
        values = resize_as_tensorflow(values, size=299)
        return self.layers((values - 128) / 128).mean((2, 3))


def inception_network(*, value_type: str = "uint8", features: int = 2048) -> Frozen:
    """Inception-2015-12-05, whose features FID compares (Heusel et al., arXiv:1706.08500).

    Args:
        value_type: ``"uint8"`` rounds frames to 256 levels (torch-fidelity, OpenAI's TensorFlow evaluator);
            ``"float"`` does not round, so that gradients pass.
        features: 2048, the output of the last pool, for scores; or 64, the output of the first maximum pool.

    Returns:
        A frozen :class:`Inception`: (N, 3, H, W) in [-1, 1] of any size -> (N, features).

    Raises:
        ValueError: If an argument has another value.

    Example:
        >>> inception_network(features=64)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 64])
    """
    if value_type not in ("uint8", "float"):
        raise ValueError(f"inception_network needs value_type 'uint8' or 'float', got {value_type!r}.")
    if features not in _DEPTHS:
        raise ValueError(f"inception_network needs features 64 or 2048, got {features!r}.")
    with torch.device("meta"):
        layers = _inception_layers()
    load_strictly(layers, assets.weights_path("weights/inception_2015", convert=inception_2015),
                  who="inception_network")
    return Frozen(Inception(layers[:_DEPTHS[features]], value_type=value_type))


def inception_2015(path: Path) -> dict[str, np.ndarray]:
    """The tensors of the pinned TorchScript archive under the names of :class:`Inception`'s layers.

    The archive is a zip. Its record ``data/i`` is the i-th tensor, little-endian float32, in the order of our layers,
    four for each of the 94 convolutions. Its code and its pickle are not read.
    """
    with torch.device("meta"):
        tensors = _inception_layers().state_dict()  # names and shapes
    with zipfile.ZipFile(path) as archive:
        return {name: np.frombuffer(archive.read(f"out_jit_module/data/{index}"), "<f4").reshape(tensor.shape)
                for index, (name, tensor) in enumerate(tensors.items())}


def _inception_layers() -> nn.Sequential:
    return nn.Sequential(
        _conv(3, 32, 3, stride=2),                          # side 299 -> 149
        _conv(32, 32, 3),                                   # 147
        _conv(32, 64, 3, padding=1),
        nn.MaxPool2d(3, stride=2),                          # 73
        _conv(64, 80, 1),
        _conv(80, 192, 3),                                  # 71
        nn.MaxPool2d(3, stride=2),                          # 35
        _block_a(192, pooled=32), _block_a(256, pooled=64), _block_a(288, pooled=64),
        _block_b(288),                                      # 17
        *(_block_c(768, inner=inner) for inner in (128, 160, 160, 192)),
        _block_d(768),                                      # 8
        _block_e(1280, pool=_average_pool()), _block_e(2048, pool=nn.MaxPool2d(3, stride=1, padding=1)))


ROW, COLUMN = (1, 7), (7, 1)  # kernels


def _conv(inputs: int, outputs: int, kernel: int | tuple[int, int], *, stride: int = 1,
          padding: int = 0) -> nn.Sequential:
    """Convolution, normalisation, ReLU. A kernel (k_h, k_w) keeps the size of the frame."""
    same_or_padding = "same" if isinstance(kernel, tuple) else padding
    return normalized(nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=same_or_padding, bias=False))


def _average_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def _block_a(inputs: int, *, pooled: int) -> Branches:
    return Branches([
        _conv(inputs, 64, 1),
        nn.Sequential(_conv(inputs, 48, 1), _conv(48, 64, 5, padding=2)),
        nn.Sequential(_conv(inputs, 64, 1), _conv(64, 96, 3, padding=1), _conv(96, 96, 3, padding=1)),
        nn.Sequential(_average_pool(), _conv(inputs, pooled, 1))])


def _block_b(inputs: int) -> Branches:
    return Branches([
        _conv(inputs, 384, 3, stride=2),
        nn.Sequential(_conv(inputs, 64, 1), _conv(64, 96, 3, padding=1), _conv(96, 96, 3, stride=2)),
        nn.MaxPool2d(3, stride=2)])


def _block_c(inputs: int, *, inner: int) -> Branches:
    return Branches([
        _conv(inputs, 192, 1),
        nn.Sequential(_conv(inputs, inner, 1), _conv(inner, inner, ROW), _conv(inner, 192, COLUMN)),
        nn.Sequential(_conv(inputs, inner, 1), _conv(inner, inner, COLUMN), _conv(inner, inner, ROW),
                      _conv(inner, inner, COLUMN), _conv(inner, 192, ROW)),
        nn.Sequential(_average_pool(), _conv(inputs, 192, 1))])


def _block_d(inputs: int) -> Branches:
    return Branches([
        nn.Sequential(_conv(inputs, 192, 1), _conv(192, 320, 3, stride=2)),
        nn.Sequential(_conv(inputs, 192, 1), _conv(192, 192, ROW), _conv(192, 192, COLUMN),
                      _conv(192, 192, 3, stride=2)),
        nn.MaxPool2d(3, stride=2)])


def _block_e(inputs: int, *, pool: nn.Module) -> Branches:
    cross = [Branches([_conv(384, 384, (1, 3)), _conv(384, 384, (3, 1))]) for _ in range(2)]
    return Branches([
        _conv(inputs, 320, 1),
        nn.Sequential(_conv(inputs, 384, 1), cross[0]),
        nn.Sequential(_conv(inputs, 448, 1), _conv(448, 384, 3, padding=1), cross[1]),
        nn.Sequential(pool, _conv(inputs, 192, 1))])


_DEPTHS = {64: 4, 2048: 18}  # features -> number of layers
