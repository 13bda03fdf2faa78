"""timm's image classifiers, with weights from here."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from toolkit import assets
from toolkit.pretrained.frozen import Frozen, load_strictly


class Classifier(nn.Module):
    """An image classifier with its own input statistics.

    Attributes:
        mean, std: (3,) of the [0, 1] pixels it was trained on.
        input_size: (C, H, W) it was trained at; other sizes work where its architecture allows.

    Example:
        >>> grey = Classifier(nn.Flatten(), mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(3, 1, 1))
        >>> grey(torch.ones(1, 3, 1, 1)).tolist()   # 1 in [0, 1] is one half above the mean
        [[1.0, 1.0, 1.0]]
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
    if weights in _CLASSIFIERS:
        path = assets.weights_path(weights, convert=_CLASSIFIERS[weights])
    elif not (path := Path(weights)).is_file():
        raise ValueError(f"classifier {backbone!r} needs its weights in a local file, got {str(path)!r}, which does "
                         f"not exist; give a path, or an asset of it if there is one: {', '.join(_CLASSIFIERS)}.")
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(backbone, pretrained=False)
    load_strictly(model, path, who=f"classifier {backbone!r}")
    data = model.pretrained_cfg
    return Frozen(Classifier(model, mean=data["mean"], std=data["std"], input_size=data["input_size"]))


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


_CLASSIFIERS = {"weights/efficientnet_lite0": efficientnet_lite0}
