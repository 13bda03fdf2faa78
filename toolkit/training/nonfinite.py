"""Steps whose losses or gradients are not finite leave no trace in the weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from toolkit.contracts import Quantizer

logger = logging.getLogger(__name__)


class DivergenceError(ValueError):
    """Too many steps in a row were not finite."""


class FiniteCheck:
    """Decides for all processes together whether a step is skipped: if a loss or a gradient is not finite.

    The optimizers are not stepped then, and what the forward passes changed is restored: buffers (averages of logits,
    codebooks, batch statistics), and codes that a quantizer replaced.
    """

    def __init__(self, modules: Iterable[nn.Module], *, max_in_a_row: int,
                 any_process: Callable[[bool], bool] | None = None):
        self.max_in_a_row, self.any_process = max_in_a_row, any_process or bool
        self.num_skipped, self.in_a_row = 0, 0
        self._modules = list(modules)
        self._saved: list[Tensor] = []

    def _changing(self) -> list[Tensor]:
        quantizers = [child for module in self._modules for child in module.modules() if isinstance(child, Quantizer)]
        return [*(buffer for module in self._modules for buffer in module.buffers()),
                *(codes for quantizer in quantizers for codes in quantizer.parameters(recurse=False))]

    @torch.no_grad()
    def remember(self) -> None:
        """Copy what forward passes change, before the first one of a step."""
        self._saved = [tensor.clone() for tensor in self._changing()]

    def check(self, scalars: Sequence[Mapping[str, Tensor]], *, norms: Mapping[str, Tensor], keys: Sequence[str],
              ) -> tuple[str, list[str]] | None:
        """None if all losses and gradient norms are finite; otherwise the reason and the keys of the suspect samples.

        Every process calls it with its losses per micro-batch and its keys; norms are equal on all processes. A
        DivergenceError is raised after more than ``max_in_a_row`` skipped steps.
        """
        named = [*((name, value) for each in scalars for name, value in each.items()), *norms.items()]
        finite = torch.stack([value.detach().float() for _, value in named]).isfinite()
        if not self.any_process(not finite.all()):
            self.in_a_row, self._saved = 0, []
            return None
        bad = dict.fromkeys(f"{name} is {value.item():.4g}"
                            for (name, value), good in zip(named, finite.tolist(), strict=True) if not good)
        # Joint losses and gradients are bad on all processes; the cause is where most losses are.
        num_bad = int((~finite[:len(named) - len(norms)]).sum())
        reports = gather_object([(", ".join(bad), list(keys), num_bad)])
        suspects = [report for report in reports if report[2] == max(count for _, _, count in reports)]
        self._restore()
        self.num_skipped, self.in_a_row = self.num_skipped + 1, self.in_a_row + 1
        reason, suspect_keys = suspects[0][0], [key for _, process_keys, _ in suspects for key in process_keys]
        logger.warning("a step is skipped (%d in a row, %d in all): %s; its samples: %s.", self.in_a_row,
                       self.num_skipped, reason, ", ".join(suspect_keys))
        if self.in_a_row > self.max_in_a_row:
            raise DivergenceError(
                f"training needs finite losses and gradients, got {self.in_a_row} steps in a row without ({reason}). "
                "Look at the samples named above, lower training.learning_rate or set training.gradient_clipping, and "
                "go on with --resume.")
        return reason, suspect_keys

    @torch.no_grad()
    def _restore(self) -> None:
        for tensor, saved in zip(self._changing(), self._saved, strict=True):
            tensor.copy_(saved)
        self._saved = []

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"num_skipped": self.num_skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.num_skipped, self.in_a_row = state["num_skipped"], state["in_a_row"]
