"""Networks that are never trained, and the strict loading of their weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


class Frozen(nn.Module):
    """A network that is never trained and never saved.

    It stays in eval mode when its parent is set to train mode. Its parameters are not in the parent's ``parameters()``
    and ``state_dict()``. It computes in float32 outside autocast, on its input's device. Gradients flow to the input.

    Example:
        >>> parent = nn.ModuleDict({"perceptual": Frozen(nn.Linear(2, 2))}).train()
        >>> parent["perceptual"].network.training, list(parent.state_dict())
        (False, [])
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self._network = (network.float().eval().requires_grad_(False),)  # in a tuple it is no submodule
        super().train(False)

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._network[0]

    def train(self, mode: bool = True) -> Frozen:
        """Stays in eval mode."""
        return self

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's output for inputs of any float dtype on one device."""
        device = inputs[0].device
        self.network.to(device)
        with torch.autocast(device.type, enabled=False):
            return self.network(*(x.float() for x in inputs))


def load_strictly(network: nn.Module, path: Path, *, who: str) -> None:
    """Load exactly the tensors of a safetensors file or a pickled state dict; the network may be on the meta device."""
    try:
        tensors = (load_file(path) if path.suffix == ".safetensors"
                   else torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"{who} needs a file of tensors, got {path}, which is damaged or holds other objects. "
                         f"{str(error)[:300]}") from error
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{who} does not fit the weights in {path}; use the state dict of exactly this "
                         f"network. {str(error)[:1000]}") from error
