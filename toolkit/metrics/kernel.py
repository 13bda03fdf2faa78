"""Kernel distances beside the Fréchet distances, on the same features: KID and KVD.

They assume no Gaussian, and their expectation does not depend on the number of samples.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from toolkit.contracts import Column
from toolkit.metrics.features import FeatureBlock
from toolkit.metrics.frechet import RFID, RFVD, FrechetMetric
from toolkit.registry import METRICS


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """The squared maximum mean discrepancy of paired sets under the kernel ``(x . y / D + 1)^3``, in float64.

    The U-statistic over all pairs of samples i != j. Of targets and their reconstructions this is unbiased,
    and 0 if they are equal; the estimator of independent sets also pairs a target with its own
    reconstruction, which makes it too small by about ``2 / N``. Over independent sets both expect the same.

    Args:
        first, second: (N, D); row i of one belongs to row i of the other.

    Returns:
        About 0, of either sign, for samples of one distribution; NaN if an input is not finite. Sets of unequal size,
        or of fewer than two samples, raise a ValueError.

    Source: Bińkowski et al., arXiv:1801.01401, sec. 4; Gretton et al., JMLR 13 (2012), eq. 4.

    Example:
        >>> first = torch.tensor([[0.0], [1.0]])
        >>> kernel_distance(first, first), kernel_distance(first, first + 1)   # (0 + 1)^3 + (2 + 1)^3 - 1 - 2^3
        (0.0, 19.0)
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"kernel_distance takes two sets (N, D) of equal size, N at least 2, got "
                         f"{tuple(first.shape)} and {tuple(second.shape)}.")
    total, itself = _kernel_sums(first, second, first, second)
    return (total - itself) / (len(first) * (len(first) - 1))


def _kernel_sums(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> tuple[float, float]:
    """The sum of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j) over all pairs, and over those with i = j.

    Targets x and reconstructions y: (N, D) with index i and (M, D) with index j.
    """
    first, second = torch.stack([x1, y1]).double(), torch.stack([x2, y2]).double()
    kernels = torch.einsum("and,bmd->abnm", first, second).div_(x1.shape[1]).add_(1).pow_(3)
    kernels = kernels[0, 0] + kernels[1, 1] - kernels[0, 1] - kernels[1, 0]
    return kernels.sum().item(), kernels.trace().item()


def _stored_sums(first: FeatureBlock, second: FeatureBlock) -> tuple[float, float]:
    """:func:`_kernel_sums` of two blocks, stored because every subset of the blocks needs them again."""
    if second.id not in first.kernel_sums:
        first.kernel_sums[second.id] = _kernel_sums(first.target.features, first.reconstruction.features,
                                                    second.target.features, second.reconstruction.features)
    return first.kernel_sums[second.id]


class WithKernelDistance(FrechetMetric):
    """A Fréchet metric that also gives the kernel distance of its features; one pass of the network serves both.

    All pairs of the features that stay are compared: of every sample up to ``kept``, beyond that of a sample of them.
    """

    kernel_name: str  # of the second score in compute's result

    def compute(self) -> dict[str, float]:
        """Both distances over all samples of all processes; errors as in :meth:`FrechetMetric.compute`."""
        blocks = self._checked_blocks()
        return {self.name: self._distance(blocks), self.kernel_name: self._kernel_distance(blocks)}

    def _kernel_distance(self, blocks: list[FeatureBlock]) -> float:
        count = sum(len(block.target.features) for block in blocks)
        within = math.fsum(total - itself for total, itself in (_stored_sums(block, block) for block in blocks))
        between = math.fsum(_stored_sums(one, other)[0] for one, other in itertools.combinations(blocks, 2))
        return (within + 2 * between) / (count * (count - 1))


@METRICS.register_module()
class InceptionDistances(WithKernelDistance, RFID):
    """rFID and the kernel inception distance (Bińkowski et al., arXiv:1801.01401) of reconstructed frames.

    Features, samples and arguments are :class:`RFID`'s; the second is :func:`kernel_distance`.

    Example:
        >>> distances, clips = InceptionDistances(), torch.rand(1, 3, 2, 32, 32) * 2 - 1
        >>> distances.update(target=clips, reconstruction=clips)   # two samples; and more of them
        >>> {name: round(score, 6) for name, score in distances.compute().items()}
        {'rfid': 0.0, 'kid': 0.0}
    """

    kernel_name = "kid"
    higher_is_better = {"rfid": False, "kid": False}
    columns = RFID.columns | {"kid": Column("KID", ".4f")}


@METRICS.register_module()
class VideoDistances(WithKernelDistance, RFVD):
    """rFVD and the kernel video distance (Unterthiner et al., arXiv:1812.01717) of reconstructed clips.

    Features and samples are :class:`RFVD`'s; the second is :func:`kernel_distance`.

    Example:
        >>> distances, clips = VideoDistances(), torch.rand(2, 3, 10, 32, 32) * 2 - 1
        >>> distances.samples(clips).shape   # update, and more of them, then compute(), take seconds
        torch.Size([2, 3, 10, 32, 32])
    """

    kernel_name = "kvd"
    higher_is_better = {"rfvd": False, "kvd": False}
    columns = RFVD.columns | {"kvd": Column("KVD", ".2f")}
