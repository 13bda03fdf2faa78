"""Families of published checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from toolkit.contracts.component import Component


class CheckpointFamily(Component, ABC):
    """Checkpoints of one published code base, as a config and a state dict of this toolkit.

    A family is never saved, so ``config`` is not its own: it is that of what the checkpoint holds.

    Attributes:
        component: What the tensors become, ``"tokenizer"`` or ``"discriminator"``.

    Example:
        >>> CheckpointFamily.__abstractmethods__ == {"score", "config", "state_dict"}   # what an author writes
        True
    """

    component: ClassVar[str] = "tokenizer"

    @property
    def name(self) -> str:
        """The registered type."""
        return type(self).type_name or type(self).__name__

    @abstractmethod
    def score(self, tensors: Mapping[str, Tensor], file_name: str) -> float:
        """How well the names and shapes of a checkpoint's tensors fit, from 0 (not of this family) to 1."""

    @abstractmethod
    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The config of the tokenizer or discriminator that these tensors are the weights of."""

    @abstractmethod
    def state_dict(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole state dict of what :meth:`config` describes.

        Tensors that are missing or unused raise ValueError with their names.
        """

    def constants(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that are not learned and not in the state dict."""
        return {}
