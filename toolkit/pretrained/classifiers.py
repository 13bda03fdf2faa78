"""timm's image classifiers with pinned or local weights."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from toolkit import assets
from toolkit.pretrained.frozen import Frozen, load_strictly


class Classifier(nn.Module):
    """An image classifier that normalises its input by the mean and std of its training pixels in [0, 1]."""

    def __init__(self, model: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...],
                 input_size: tuple[int, int, int]):
        super().__init__()
        self.model = model
        self.input_size = tuple(input_size)  # (C, H, W) of its training; other sizes may work
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [-1, 1] -> logits (N, classes)."""
        unit = (frames + 1) / 2
        return self.model((unit - self.mean[:, None, None]) / self.std[:, None, None])


def classifier(backbone: str, *, weights: str | Path) -> Frozen:
    """A frozen timm classifier; timm's own download is not used.

    Args:
        backbone: A timm model name, such as ``"tf_efficientnet_lite0"``.
        weights: An asset (``"weights/efficientnet_lite0"``), or a local ``.safetensors``, ``.pth``, ``.pt`` or
            ``.bin`` file with the state dict of this backbone.

    Returns:
        A frozen :class:`Classifier`: (N, 3, H, W) in [-1, 1] -> logits (N, classes).

    Raises:
        ValueError: If timm has no such backbone, the file does not exist, or its tensors do not fit.

    Example:
        >>> network = classifier("tf_efficientnet_lite0", weights="weights/efficientnet_lite0")
        >>> network(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1000])
    """
    import timm

    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), n=3)
        raise ValueError(f"classifier needs a timm model name, got {backbone!r}; did you mean "
                         f"{' or '.join(near) or 'another'}?")
    if weights in _CLASSIFIERS:
        path = assets.weights_path(weights, convert=_CLASSIFIERS[weights])
    elif not (path := Path(weights)).is_file():
        raise ValueError(f"classifier {backbone!r} needs its weights in a local file, got {str(path)!r}, which does "
                         f"not exist; use the path of a file, or an asset: {', '.join(_CLASSIFIERS)}.")
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(backbone, pretrained=False)
    load_strictly(model, path, who=f"classifier {backbone!r}")
    cfg = model.pretrained_cfg
    return Frozen(Classifier(model, mean=cfg["mean"], std=cfg["std"], input_size=cfg["input_size"]))


def efficientnet_lite0(path: Path) -> dict[str, np.ndarray]:
    """The asset's tensors under timm's names of ``tf_efficientnet_lite0``: flat blocks become stages of blocks."""
    blocks = [(stage, block) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
            "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}
    arrays = {}
    for key, tensor in torch.load(path, map_location="cpu", weights_only=True).items():
        *parents, layer, kind = key.split(".")
        if kind == "num_batches_tracked":  # not read in eval mode
            continue
        name = outer[layer] if not parents else (first if parents[1] == "0" else later)[layer]
        prefix = "blocks.{}.{}.".format(*blocks[int(parents[1])]) if parents else ""
        arrays[f"{prefix}{name}.{kind}"] = tensor.contiguous().numpy()
    return arrays


_CLASSIFIERS = {"weights/efficientnet_lite0": efficientnet_lite0}
