"""A network that is used and never trained, and the strict loading of its weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


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


def load_strictly(network: nn.Module, path: Path, *, who: str) -> None:
    """Give a network exactly the tensors of a file; one built on the meta device becomes real.

    Args:
        network: Takes the file's tensors themselves.
        path: A safetensors file, or a pickled state dict, which is read without executing it.
        who: Names the network in messages.

    Raises:
        ValueError: If the file is no state dict, or not this network's.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> with torch.device("meta"): network = nn.Linear(2, 1, bias=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"weight": torch.ones(1, 2)}, Path(folder, "ones.safetensors"))
        ...     load_strictly(network, Path(folder, "ones.safetensors"), who="a sum")
        >>> network(torch.ones(1, 2)).item()
        2.0
    """
    try:
        tensors = (load_file(path) if path.suffix == ".safetensors"
                   else torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"{who}: {path} is damaged, or holds more than tensors. {str(error)[:300]}") from error
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{who} does not fit the weights in {path}; give the state dict of exactly this "
                         f"network. {str(error)[:1000]}") from error
