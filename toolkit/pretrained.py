"""Frozen published networks under pinned weights, for losses and metrics alike.

Every one comes as a :class:`Frozen`: it cannot be trained, is in no checkpoint, and computes in
float32 where its input is. Their inputs are frames ``(N, C, H, W)`` in [-1, 1].
"""

from __future__ import annotations

import difflib
import pickle
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from toolkit import assets


class Frozen(nn.Module):
    """A network that is only ever used, never trained, saved or sent anywhere.

    It stays in eval mode whatever ``train()`` is called on its parent, its parameters are nobody's
    (not in ``parameters()``, not in ``state_dict()``, so a checkpoint without it loads strictly), it
    runs in float32 outside autocast, and it follows its input's device. Gradients flow to the input.

    Example:
        >>> parent = nn.ModuleDict({"perceptual": Frozen(nn.Linear(2, 2))}).train()
        >>> parent["perceptual"].network.training, list(parent.state_dict())
        (False, [])
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self._held = (network.float().eval().requires_grad_(False),)  # a tuple: no submodule
        super().train(False)

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._held[0]

    def train(self, mode: bool = True) -> Frozen:
        """Does nothing: it has one mode, eval."""
        return self

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's output for float inputs on any one device."""
        device = inputs[0].device
        self.network.to(device)
        with torch.autocast(device.type, enabled=False):
            return self.network(*(x.float() for x in inputs))


class LPIPSDistance(nn.Module):
    """One distance per pair of frames, from an ``lpips.LPIPS`` (Zhang et al., arXiv:1801.03924).

    Attributes:
        lpips: The package's network, version 0.1.
        min_side: The smallest height and width its trunk takes.
    """

    def __init__(self, lpips: nn.Module, *, min_side: int):
        super().__init__()
        self.lpips = lpips
        self.min_side = min_side

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two batches of frames (N, 3, H, W) in [-1, 1] -> (N,) distances, 0 for equal frames.

        Raises:
            ValueError: If the frames are not RGB or too small for the trunk.
        """
        if first.ndim != 4 or first.shape[1] != 3 or min(first.shape[2:]) < self.min_side:
            raise ValueError(f"LPIPS with {self.lpips.pnet_type!r} takes frames (N, 3, H, W) with sides "
                             f"from {self.min_side} on, got {tuple(first.shape)}; use larger frames.")
        return self.lpips(first, second).flatten()


def lpips_network(net: str = "alex") -> Frozen:
    """LPIPS v0.1: the ``lpips`` package's linear heads on our pinned trunk.

    Args:
        net: ``"alex"`` (the one to report) or ``"vgg"`` (the one to train with).

    Returns:
        A frozen :class:`LPIPSDistance`: (N, 3, H, W), (N, 3, H, W) in [-1, 1] -> (N,).

    Raises:
        ValueError: If ``net`` is another one.

    Example:
        >>> black, white = -torch.ones(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
        >>> round(lpips_network("alex")(black, white).item(), 4)
        0.814
    """
    if net not in _TRUNKS:
        raise ValueError(f"lpips_network takes net 'alex' or 'vgg', got {net!r}.")
    name, convert, min_side = _TRUNKS[net]
    import lpips

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # lpips still says `pretrained=`, and the random trunk must not move the run's random stream
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    _load_strictly(network.net, assets.weights_path(name, convert=convert), who=f"lpips_network({net!r})")
    return Frozen(LPIPSDistance(network, min_side=min_side))


class Classifier(nn.Module):
    """An image classifier with its own input statistics.

    Attributes:
        mean, std: (3,) of the [0, 1] pixels it was trained on.
        input_size: (C, H, W) it was trained at; other sizes work where its architecture allows.
    """

    def __init__(self, model: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...],
                 input_size: tuple[int, int, int]):
        super().__init__()
        self.model = model
        self.input_size = tuple(input_size)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [-1, 1] -> logits (N, classes)."""
        unit = (frames + 1) / 2
        return self.model((unit - self.mean[:, None, None]) / self.std[:, None, None])


def classifier(backbone: str, *, weights: str | Path) -> Frozen:
    """A frozen timm classifier with weights from here, not from the internet.

    Args:
        backbone: A name of timm's, such as ``"tf_efficientnet_lite0"``.
        weights: An asset of that backbone (``"weights/efficientnet_lite0"``), or a local
            ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` with a state dict of exactly its tensors.

    Returns:
        A frozen :class:`Classifier`: (N, 3, H, W) in [-1, 1] -> logits (N, classes).

    Raises:
        ValueError: If timm has no such backbone, or the weights are not found or do not fit.

    Example:
        >>> network = classifier("tf_efficientnet_lite0", weights="weights/efficientnet_lite0")
        >>> tuple(network(torch.zeros(2, 3, 64, 64)).shape), network.network.input_size
        ((2, 1000), (3, 224, 224))
    """
    import timm

    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=3)
        raise ValueError(f"timm has no backbone {backbone!r}; did you mean {' or '.join(near) or 'another'}?")
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(backbone, pretrained=False)
    if weights in _CLASSIFIERS:
        path = assets.weights_path(weights, convert=_CLASSIFIERS[weights])
    else:
        path = Path(weights)
    _load_strictly(model, path, who=f"classifier {backbone!r}")
    data = model.pretrained_cfg
    return Frozen(Classifier(model, mean=data["mean"], std=data["std"], input_size=data["input_size"]))


def _load_strictly(network: nn.Module, path: Path, *, who: str) -> None:
    if not path.is_file():
        raise ValueError(f"{who} needs its weights in a local file, got {str(path)!r}, which does not exist; "
                         f"give a path, or an asset of it if there is one: {', '.join(_CLASSIFIERS)}.")
    try:
        tensors = (load_file(path) if path.suffix == ".safetensors"
                   else torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"{who}: {path} is damaged, or holds more than tensors. {str(error)[:300]}") from error
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{who} does not fit the weights in {path}; give the state dict of exactly this "
                         f"network. {str(error)[:1000]}") from error


def alexnet_trunk(path: Path) -> dict[str, np.ndarray]:
    """flax's AlexNet convolutions in the names of ``lpips.LPIPS(net="alex").net``.

    Example:
        >>> alexnet_trunk(assets.fetch("weights/lpips_alexnet"))["slice1.0.weight"].shape
        (64, 3, 11, 11)
    """
    return _trunk(path, ["slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10"])


def vgg16_trunk(path: Path) -> dict[str, np.ndarray]:
    """flax's VGG-16 convolutions in the names of ``lpips.LPIPS(net="vgg").net``.

    Example:
        >>> vgg16_trunk(assets.fetch("weights/lpips_vgg16"))["slice5.28.weight"].shape
        (512, 512, 3, 3)
    """
    slices = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21), 5: (24, 26, 28)}
    return _trunk(path, [f"slice{number}.{layer}" for number, layers in slices.items() for layer in layers])


def _trunk(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    (layers,) = (part for key, part in assets.read_arrays(path).items() if not key.startswith("NetLinLayer"))
    assert len(layers) == len(names), (path, list(layers))
    arrays = {}
    for index, name in enumerate(names):
        kernel = layers[f"Conv_{index}"]["kernel"].transpose(3, 2, 0, 1)  # (kh, kw, in, out) to torch's
        arrays[f"{name}.weight"] = np.ascontiguousarray(kernel)
        arrays[f"{name}.bias"] = np.ascontiguousarray(layers[f"Conv_{index}"]["bias"])
    return arrays


def efficientnet_lite0(path: Path) -> dict[str, np.ndarray]:
    """Flat blocks in the names of timm's ``tf_efficientnet_lite0``: stages of blocks.

    Example:
        >>> efficientnet_lite0(assets.fetch("weights/efficientnet_lite0"))["conv_stem.weight"].shape
        (32, 3, 3, 3)
    """
    blocks = [(stage, block) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
            "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}
    arrays = {}
    for key, tensor in torch.load(path, map_location="cpu", weights_only=True).items():
        *parents, layer, kind = key.split(".")
        if kind == "num_batches_tracked":  # a count that eval mode never reads
            continue
        name = ends[layer] if not parents else (first if parents[1] == "0" else later)[layer]
        where = "blocks.{}.{}.".format(*blocks[int(parents[1])]) if parents else ""
        arrays[f"{where}{name}.{kind}"] = tensor.contiguous().numpy()
    return arrays


# net -> asset, conversion, smallest side: AlexNet's stride 4 and two pools, VGG's four halvings
_TRUNKS = {"alex": ("weights/lpips_alexnet", alexnet_trunk, 31),
           "vgg": ("weights/lpips_vgg16", vgg16_trunk, 16)}
_CLASSIFIERS = {"weights/efficientnet_lite0": efficientnet_lite0}
