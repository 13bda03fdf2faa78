"""Skips optimizer steps with losses or gradients that are not finite."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from toolkit.contracts import Quantizer
from toolkit.layers.distributed import any_process, gather_objects_over_processes

logger = logging.getLogger(__name__)


class DivergenceError(ValueError):
    """Too many steps in a row were skipped."""


class FiniteCheck:
    """Decides on all processes together whether a step is skipped: if a loss or a gradient is not finite.

    A skipped step changes no weight. What its forward passes changed is restored: buffers (averages of logits,
    codebooks, batch statistics) and replaced codes.
    """

    def __init__(self, modules: Iterable[nn.Module], *, max_in_a_row: int):
        self.max_in_a_row, self.num_skipped, self.in_a_row = max_in_a_row, 0, 0
        self._modules = list(modules)
        self._saved: list[Tensor] = []

    def _changing_tensors(self) -> list[Tensor]:
        quantizers = [child for module in self._modules for child in module.modules() if isinstance(child, Quantizer)]
        return [*(buffer for module in self._modules for buffer in module.buffers()),
                *(codes for quantizer in quantizers for codes in quantizer.parameters(recurse=False))]

    @torch.no_grad()
    def save(self) -> None:
        """Copy the tensors that forward passes change; to be called before the first forward pass of a step."""
        self._saved = [tensor.clone() for tensor in self._changing_tensors()]

    def check(self, scalars: Sequence[Mapping[str, Tensor]], *, norms: Mapping[str, Tensor], keys: Sequence[str],
              ) -> tuple[str, list[str]] | None:
        """None if all losses and gradient norms are finite; otherwise the reason and the keys of the suspect samples.

        Every process calls it with its losses per micro-batch and its keys; norms are equal on all processes. More
        than ``max_in_a_row`` skipped steps in a row raise a DivergenceError.
        """
        saved_tensors, self._saved = self._saved, []
        values = [*((name, value) for losses in scalars for name, value in losses.items()), *norms.items()]
        finite = torch.stack([value.detach().float() for _, value in values]).isfinite()
        if not any_process(not finite.all()):
            self.in_a_row = 0
            return None
        messages = dict.fromkeys(f"{name} is {value.item():.4g}"
                                 for (name, value), is_finite in zip(values, finite.tolist(), strict=True)
                                 if not is_finite)
        # Gradients are equal on all processes. The processes with the most nonfinite losses have the cause.
        num_nonfinite = int((~finite[:len(values) - len(norms)]).sum())
        reports = gather_objects_over_processes((", ".join(messages), list(keys), num_nonfinite))
        suspects = [report for report in reports if report[2] == max(count for _, _, count in reports)]
        with torch.no_grad():
            for tensor, saved in zip(self._changing_tensors(), saved_tensors, strict=True):
                tensor.copy_(saved)
        self.num_skipped, self.in_a_row = self.num_skipped + 1, self.in_a_row + 1
        reason, suspect_keys = suspects[0][0], [key for _, process_keys, _ in suspects for key in process_keys]
        logger.warning("a step is skipped (%d in a row, %d in all): %s; its samples: %s.", self.in_a_row,
                       self.num_skipped, reason, ", ".join(suspect_keys))
        if self.in_a_row > self.max_in_a_row:
            raise DivergenceError(
                f"training needs finite losses and gradients, got {self.in_a_row} steps in a row without ({reason}). "
                "Look at the samples named above, lower training.learning_rate or set training.gradient_clipping, and "
                "continue with --resume.")
        return reason, suspect_keys

    def state_dict(self) -> dict[str, int]:
        """The numbers of skipped steps."""
        return {"num_skipped": self.num_skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.num_skipped, self.in_a_row = state["num_skipped"], state["in_a_row"]
