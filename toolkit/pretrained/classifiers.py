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

    def __init__(self, model: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.model = model
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
    return Frozen(Classifier(model, mean=model.pretrained_cfg["mean"], std=model.pretrained_cfg["std"]))


def efficientnet_lite0(path: Path) -> dict[str, np.ndarray]:
    """The asset's tensors, which have the order of timm's ``tf_efficientnet_lite0``, under timm's names."""
    import timm

    with torch.device("meta"):
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    return {name: tensor.contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}


_CLASSIFIERS = {"weights/efficientnet_lite0": efficientnet_lite0}
