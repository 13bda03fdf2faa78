"""What keeps a step that went wrong out of the weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from toolkit.contracts import Quantizer

logger = logging.getLogger(__name__)


class DivergenceError(ValueError):
    """So many steps in a row were not finite that the run must be looked at."""


class Guard:
    """Decides, for all processes together, whether a step is taken: if its losses and gradients are finite.

    A step that is not taken leaves no trace: the optimizers touch nothing, and what the forward passes changed is
    put back: buffers (averages of logits, codebooks and batch statistics), and codes that a quantizer draws anew.

    Args:
        modules: Of the run, all that learn or keep averages.
        max_in_a_row: Steps left out one after the other, beyond which the run ends.
        any_of: Whether a flag is set on any of all processes; None: there is one.

    Attributes:
        num_skipped: Steps left out so far.
        in_a_row: How many of them just now.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> guard = Guard([norm], max_in_a_row=2)
        >>> guard.remember()
        >>> output = norm(torch.full((2, 1), float("nan"))).mean()
        >>> guard.faults([{"total": output.detach()}], norms={}, keys=["torn.mp4"])
        ('total is nan', ['torn.mp4'])
        >>> norm.running_mean.item(), guard.num_skipped
        (0.0, 1)
    """

    def __init__(self, modules: Iterable[nn.Module], *, max_in_a_row: int,
                 any_of: Callable[[bool], bool] | None = None):
        self.max_in_a_row, self.any_of = max_in_a_row, any_of or bool
        self.num_skipped, self.in_a_row = 0, 0
        self._modules = list(modules)
        self._saved: list[Tensor] = []

    def _changing(self) -> list[Tensor]:
        parts = [part for module in self._modules for part in module.modules()]
        return [*(buffer for module in self._modules for buffer in module.buffers()),
                *(codes for part in parts if isinstance(part, Quantizer) for codes in part.parameters(recurse=False))]

    @torch.no_grad()
    def remember(self) -> None:
        """Copy what forward passes change, before a step's first one."""
        self._saved = [tensor.clone() for tensor in self._changing()]

    def faults(self, scalars: Sequence[Mapping[str, Tensor]], *, norms: Mapping[str, Tensor], keys: Sequence[str],
               ) -> tuple[str, list[str]] | None:
        """What is wrong with a step and the keys of its samples, or None; every process calls it.

        Args:
            scalars: Of each micro-batch, its losses by name.
            norms: Of the gradients, by name, which are the same on all processes.
            keys: Of this process' samples.

        Returns:
            None if the step may be taken. Else the reason, and the keys of the processes with the most losses that are
            not finite; what changed has been put back.

        Raises:
            DivergenceError: If that was one too many in a row.
        """
        named = [*((name, value) for each in scalars for name, value in each.items()), *norms.items()]
        finite = torch.stack([value.detach().float() for _, value in named]).isfinite()
        if not self.any_of(not finite.all()):
            self.in_a_row, self._saved = 0, []
            return None
        bad = dict.fromkeys(f"{name} is {value.item():.4g}"
                            for (name, value), good in zip(named, finite.tolist(), strict=True) if not good)
        # Joint losses and gradients are bad everywhere; where the most losses are, there is the cause.
        num_bad = int((~finite[:len(named) - len(norms)]).sum())
        found = gather_object([(", ".join(bad), list(keys), num_bad)])
        guilty = [each for each in found if each[2] == max(count for _, _, count in found)]
        self._put_back()
        self.num_skipped, self.in_a_row = self.num_skipped + 1, self.in_a_row + 1
        reason, suspects = guilty[0][0], [key for _, some, _ in guilty for key in some]
        logger.warning("a step is left out (%d in a row, %d in all): %s; its samples: %s.", self.in_a_row,
                       self.num_skipped, reason, ", ".join(suspects))
        if self.in_a_row > self.max_in_a_row:
            raise DivergenceError(
                f"training needs finite losses and gradients, got {self.in_a_row} steps in a row without ({reason}). "
                "Look at the samples named above, lower training.learning_rate or set training.gradient_clipping, and "
                "go on with --resume.")
        return reason, suspects

    @torch.no_grad()
    def _put_back(self) -> None:
        for tensor, saved in zip(self._changing(), self._saved, strict=True):
            tensor.copy_(saved)
        self._saved = []

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"num_skipped": self.num_skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.num_skipped, self.in_a_row = state["num_skipped"], state["in_a_row"]
