"""Finds optimizer steps with losses or gradients that are not finite, and undoes their side effects."""

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
    """Finds steps with a nonfinite loss or gradient on any process; the trainer skips them on all.

    A skipped step changes no weight. The check restores what its forward passes changed: buffers (averages of logits,
    codebooks, batch statistics) and revived codebook entries.
    """

    def __init__(self, modules: Iterable[nn.Module], *, max_in_a_row: int):
        self.max_in_a_row, self.num_skipped, self.in_a_row = max_in_a_row, 0, 0
        self._modules = list(modules)
        self._saved: list[Tensor] = []

    def _changing_tensors(self) -> list[Tensor]:
        quantizers = [child for module in self._modules for child in module.modules() if isinstance(child, Quantizer)]
        return [*(buffer for module in self._modules for buffer in module.buffers()),
                *(codebook for quantizer in quantizers for codebook in quantizer.parameters(recurse=False))]

    @torch.no_grad()
    def save(self) -> None:
        """Copy the tensors that forward passes change; to be called before the first forward pass of a step."""
        self._saved = [tensor.clone() for tensor in self._changing_tensors()]

    def check_or_restore(self, scalars: Sequence[Mapping[str, Tensor]], *, norms: Mapping[str, Tensor],
                         keys: Sequence[str]) -> tuple[str, list[str]] | None:
        """None if all values are finite. Otherwise restore the saved tensors; returns (reason, suspect samples' keys).

        Every process passes its losses per micro-batch and its samples' keys; ``norms`` are equal on all processes.
        More than ``max_in_a_row`` skipped steps in a row raise a DivergenceError.
        """
        saved_tensors, self._saved = self._saved, []
        values = [*((name, value) for losses in scalars for name, value in losses.items()), *norms.items()]
        finite = torch.stack([value.detach().float() for _, value in values]).isfinite()
        if not any_process(not finite.all()):
            self.in_a_row = 0
            return None
        messages = dict.fromkeys(f"{name} is {value:.4g}" for name, value in values if not value.float().isfinite())
        # Gradients are equal on all processes. Samples of the processes with the most nonfinite losses are suspected.
        num_nonfinite = int((~finite[:len(values) - len(norms)]).sum())
        reports = gather_objects_over_processes((", ".join(messages), list(keys), num_nonfinite))
        most = max(count for _, _, count in reports)
        suspects = [(reason, process_keys) for reason, process_keys, count in reports if count == most]
        reason, suspect_keys = suspects[0][0], [key for _, process_keys in suspects for key in process_keys]
        with torch.no_grad():
            for tensor, saved in zip(self._changing_tensors(), saved_tensors, strict=True):
                tensor.copy_(saved)
        self.num_skipped, self.in_a_row = self.num_skipped + 1, self.in_a_row + 1
        logger.warning("a step is skipped (%d in a row, %d in all): %s; suspect samples: %s.", self.in_a_row,
                       self.num_skipped, reason, ", ".join(suspect_keys))
        if self.in_a_row > self.max_in_a_row:
            raise DivergenceError(
                f"training needs finite losses and gradients, got {self.in_a_row} skipped steps in a row ({reason}). "
                "Look at the samples named above, lower training.learning_rate or set training.gradient_clipping, and "
                "continue with --resume.")
        return reason, suspect_keys

    def state_dict(self) -> dict[str, int]:
        """The numbers of skipped steps."""
        return {"num_skipped": self.num_skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.num_skipped, self.in_a_row = state["num_skipped"], state["in_a_row"]
