"""LPIPS, the learned perceptual distance of two frames, on pinned trunks."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from toolkit import assets
from toolkit.pretrained.frozen import Frozen, load_strictly


class LPIPSDistance(nn.Module):
    """An ``lpips.LPIPS`` network that checks its input; frames have sides of at least ``min_side``."""

    def __init__(self, lpips: nn.Module, *, min_side: int):
        super().__init__()
        self.lpips = lpips
        self.min_side = min_side

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two batches of frames (N, 3, H, W) in [-1, 1] -> (N,) distances, 0 for equal frames."""
        if first.ndim != 4 or first.shape[1] != 3 or min(first.shape[2:]) < self.min_side:
            raise ValueError(f"LPIPS with {self.lpips.pnet_type!r} needs frames (N, 3, H, W) with sides of at least "
                             f"{self.min_side}, got {tuple(first.shape)}; use larger frames.")
        return self.lpips(first, second).flatten()


def lpips_network(net: str = "alex") -> Frozen:
    """LPIPS v0.1 (Zhang et al., arXiv:1801.03924): the linear heads of the ``lpips`` package on a pinned trunk.

    Args:
        net: ``"alex"``, usual in reports, or ``"vgg"``, usual in training.

    Returns:
        A frozen :class:`LPIPSDistance`: two batches of frames (N, 3, H, W) in [-1, 1] -> (N,).

    Raises:
        ValueError: If ``net`` is another name; later, for sides below 31 (``"alex"``) or 16 (``"vgg"``).

    Example:
        >>> black, white = -torch.ones(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
        >>> round(lpips_network("alex")(black, white).item(), 4)
        0.814
    """
    if net not in _TRUNKS:
        raise ValueError(f"lpips_network needs net 'alex' or 'vgg', got {net!r}.")
    name, convert, min_side = _TRUNKS[net]
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # lpips uses an argument that torchvision deprecated; its random trunk must not change the run's random state.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    load_strictly(network.net, assets.weights_path(name, convert=convert), who=f"lpips_network({net!r})")
    return Frozen(LPIPSDistance(network, min_side=min_side))


def alexnet_trunk(path: Path) -> dict[str, np.ndarray]:
    """The convolutions of a flax AlexNet under the names of ``lpips.LPIPS(net="alex").net``.

    Example:
        >>> alexnet_trunk(assets.fetch("weights/lpips_alexnet"))["slice1.0.weight"].shape
        (64, 3, 11, 11)
    """
    return _trunk(path, ["slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10"])


def vgg16_trunk(path: Path) -> dict[str, np.ndarray]:
    """The convolutions of a flax VGG-16 under the names of ``lpips.LPIPS(net="vgg").net``."""
    slices = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
    return _trunk(path, [f"slice{number}.{layer}" for number, layers in slices.items() for layer in layers])


def _trunk(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    (layers,) = (value for key, value in assets.read_arrays(path).items() if not key.startswith("NetLinLayer"))
    assert len(layers) == len(names), (path, list(layers))
    arrays = {}
    for index, name in enumerate(names):
        kernel = layers[f"Conv_{index}"]["kernel"].transpose(3, 2, 0, 1)  # (kh, kw, in, out) to (out, in, kh, kw)
        arrays[f"{name}.weight"] = np.ascontiguousarray(kernel)
        arrays[f"{name}.bias"] = np.ascontiguousarray(layers[f"Conv_{index}"]["bias"])
    return arrays


# net -> asset, conversion, smallest side (AlexNet: stride 4 and two pools; VGG: four halvings)
_TRUNKS = {"alex": ("weights/lpips_alexnet", alexnet_trunk, 31),
           "vgg": ("weights/lpips_vgg16", vgg16_trunk, 16)}
