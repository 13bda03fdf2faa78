"""What training has seen and not yet written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from toolkit.metrics import Codebook
from toolkit.tokenizer import Tokenizer


class RunningMeans:
    """Scalars since the last line of the log, and the use of codebooks since the last validation.

    A checkpoint has it, so that the lines of a resumed run are those of an undisturbed one.

    Args:
        tokenizer: Whose indices are counted.

    Example:
        >>> from toolkit import build_tokenizer, load_config
        >>> tally = RunningMeans(build_tokenizer(load_config("configs/demo_video.py").tokenizer))
        >>> for loss in (1.0, 2.0):
        ...     tally.add("video", [{"total": torch.tensor(loss)}])
        >>> {modality: {name: value.item() for name, value in means.items()} for modality, means in tally.means()}
        {'video': {'total': 1.5}}
        >>> list(tally.means())
        []
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        # modality -> scalar -> its values
        self._scalars: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self._use: dict[str, Codebook] = {}

    def add(self, modality: str, scalars: Iterable[Mapping[str, Tensor]]) -> None:
        """Scalars of each of a step's micro-batches, () each."""
        for each in scalars:
            for name, value in each.items():
                self._scalars[modality][name].append(value)

    def means(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """(modality, name -> mean) of this process since the last call."""
        for modality, scalars in self._scalars.items():
            yield modality, {name: torch.stack(values).mean() for name, values in scalars.items()}
        self._scalars.clear()

    def add_indices(self, modality: str, indices: Tensor, *, size: tuple[int, ...]) -> None:
        """Indices (B, *positions, G) of pixels of the ``size`` (B, C, T, H, W)."""
        pixels = torch.empty(size, device="meta")  # only their number counts
        self._codebook(modality).update(target=pixels, reconstruction=pixels, indices=indices)

    def use(self) -> dict[str, dict[str, float]]:
        """modality -> scores of its codebook since the last call; every process calls it."""
        found = {modality: codebook.compute() for modality, codebook in self._use.items()}
        self._use.clear()
        return found

    def _codebook(self, modality: str) -> Codebook:
        tokenizer = self._tokenizer
        return self._use.setdefault(modality, Codebook(codebook_size=tokenizer.codebook_size,
                                                       num_codebooks=tokenizer.num_codebooks, digits=tokenizer.digits))

    def state_dict(self) -> dict[str, Any]:
        """Everything, in types that load with ``weights_only``."""
        return {"scalars": {modality: {name: [value.cpu() for value in values] for name, values in scalars.items()}
                            for modality, scalars in self._scalars.items()},
                "use": {modality: codebook.state_dict() for modality, codebook in self._use.items()}}

    def load_state_dict(self, state: Mapping[str, Any], *, device: torch.device) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._scalars.clear()
        self._use.clear()
        for modality, scalars in state["scalars"].items():
            for name, values in scalars.items():
                self._scalars[modality][name] = [value.to(device) for value in values]
        for modality, use in state["use"].items():
            self._codebook(modality).load_state_dict(use)
