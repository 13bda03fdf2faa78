"""What a checkpoint family does: it turns the tensors of another code base into a component of ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from toolkit.contracts.component import Component


class CheckpointFamily(Component, ABC):
    """The checkpoints of one code base; its registered name is what ``--layout`` takes.

    It is constructed without arguments and keeps no state between calls. ``tensors`` are those of one component, by
    the names in the file without the prefixes of wrappers.

    Attributes:
        component: What the tensors become, ``"tokenizer"`` or ``"discriminator"``.

    Example:
        >>> sorted(CheckpointFamily.__abstractmethods__)
        ['config', 'score', 'state_dict']
    """

    component: ClassVar[str] = "tokenizer"

    @abstractmethod
    def score(self, tensors: Mapping[str, Tensor], file_name: str) -> float:
        """How well the names fit, in [0, 1]; 0 means not at all. The highest score of all families decides."""

    @abstractmethod
    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The config of the component."""

    @abstractmethod
    def state_dict(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the component that the config builds; every tensor is used, or a ValueError names it."""

    def constants(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that hold nothing learned and are not used."""
        return {}
