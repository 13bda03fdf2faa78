"""Fréchet distances of reconstructions to their targets, in feature space: rFID and rFVD.

Protocol of both: pixels are clamped to [-1, 1] and go through a frozen, pinned network; a Gaussian with
unbiased covariance is fitted to the features of all targets, another to those of all reconstructions,
and the score is the squared Fréchet distance of the two. All but the network is float64.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Column, Metric
from toolkit.layers.distributed import sum_numbers_over_processes
from toolkit.metrics.checks import check_clips, check_mergeable, clamped
from toolkit.metrics.features import FeatureBlock, FeatureSet, gaussian, over_processes, pixel_keys
from toolkit.pretrained import i3d_network, inception_network
from toolkit.registry import METRICS

logger = logging.getLogger(__name__)
# One network of each kind serves all blocks and all metrics.
_inception, _i3d = functools.cache(inception_network), functools.cache(i3d_network)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians (Dowson & Landau, J. Multivariate Analysis 12 (1982)), in float64.

    ``|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2))``, where the last trace comes from the eigenvalues of a
    symmetric matrix, because the product may be singular.

    Args:
        mean1, mean2: (D,).
        cov1, cov2: (D, D), symmetric and positive semi-definite; they may be singular.

    Returns:
        At least 0; NaN if an input is not finite. Shapes that do not fit raise a ValueError.

    Example:
        >>> one = torch.eye(2)
        >>> frechet_distance(torch.zeros(2), one, torch.tensor([3.0, 0.0]), 4 * one)   # 3^2 + 2 * (2 - 1)^2
        11.0
    """
    dim = len(mean1)
    if mean1.shape != mean2.shape or {cov1.shape, cov2.shape} != {(dim, dim)}:
        raise ValueError(f"frechet_distance takes two means (D,) and two covariances (D, D), got "
                         f"{[tuple(x.shape) for x in (mean1, cov1, mean2, cov2)]}.")
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    if not all(x.isfinite().all() for x in (mean1, cov1, mean2, cov2)):
        return math.nan
    root = _root(cov1)
    # root.T @ cov2 @ root has the eigenvalues of cov1 @ cov2, but for zeros.
    shared = torch.linalg.eigvalsh(root.T @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * shared
    return max(distance.item(), 0.0)


def _root(cov: Tensor) -> Tensor:
    """(D, D) -> (D, rank) with ``cov = root @ root.T``."""
    root, failed = torch.linalg.cholesky_ex(cov)  # twenty times as fast as the eigenvectors
    if not failed and root.diagonal().min() > 1e-5 * root.diagonal().max():
        return root
    values, vectors = torch.linalg.eigh(cov)
    eps = len(cov) * torch.finfo(torch.float64).eps
    kept = values > values[-1] * eps  # the rest is rounding, whose root is not small
    return vectors[:, kept] * values[kept].sqrt()


def frechet_distance_of_features(first: Tensor, second: Tensor) -> float:
    """The squared Fréchet distance of two sets' Gaussians, from the sets themselves, in float64.

    Equal to :func:`frechet_distance` of their means and unbiased covariances, and much faster where the
    samples are fewer than the features: with centred sets X (N, D) and Y (M, D), the trace of the root of
    the covariances' product is the nuclear norm of ``X Y^T / sqrt((N - 1) (M - 1))``.

    Args:
        first, second: (N, D) and (M, D), each of two samples at least.

    Returns:
        At least 0; NaN if an input is not finite.

    Example:
        >>> first = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> round(frechet_distance_of_features(first, 3 * first + 1), 6)   # |(1, 1)|^2 + (3 - 1)^2 * 2
        10.0
    """
    first, second = first.double(), second.double()
    if not (first.isfinite().all() and second.isfinite().all()):
        return math.nan
    means = first.mean(0), second.mean(0)
    first, second = ((x - mean) / math.sqrt(len(x) - 1) for x, mean in zip((first, second), means, strict=True))
    distance = ((means[0] - means[1]).square().sum() + first.square().sum() + second.square().sum()
                - 2 * torch.linalg.svdvals(first @ second.T).sum())
    return max(distance.item(), 0.0)


class FrechetMetric(Metric):
    """The Fréchet distance of reconstructions to targets in a network's features; an author writes :meth:`samples`.

    It stores the features of up to ``kept`` samples, beyond that their sums and ``kept`` features; a merged metric
    stores as many of each of its metrics. Scores are of all samples in any case.

    Attributes:
        name: What the score is called in :meth:`compute`'s result.
        dim: D, the number of features.
        batch_size: How many samples go through the network at once, which bounds its memory.
        kept: The most samples whose features stay.

    Args:
        network: Samples (N, ...) -> features (N, D).

    Example:
        >>> class Brightness(FrechetMetric):
        ...     name, dim, higher_is_better = "brightness", 1, {"brightness": False}
        ...     def __init__(self): super().__init__(lambda clips: clips.mean((1, 2, 3, 4)).unsqueeze(1))
        ...     def samples(self, clips): return clips
        >>> metric = Brightness()
        >>> clips = torch.tensor([-0.5, 0.0, 0.5]).view(3, 1, 1, 1, 1)
        >>> metric.update(target=clips, reconstruction=clips + 0.5)
        >>> metric.compute()
        {'brightness': 0.25}
    """

    name: str
    dim: int
    batch_size = 32
    kept = 500  # of 20 blocks 10,000

    def __init__(self, network: Callable[[Tensor], Tensor]):
        self.network = network
        self.reset()

    @abstractmethod
    def samples(self, clips: Tensor) -> Tensor:
        """Clips (B, C, T, H, W) in [-1, 1] -> the samples (N, ...) that they are."""

    @torch.no_grad()
    def update(self, *, target: Tensor, reconstruction: Tensor, indices: Tensor | None = None) -> None:
        """Add clips (B, C, T, H, W) of any float dtype in [-1, 1].

        The reconstruction is clamped. With NaN or infinity in it the score is NaN.

        Raises:
            ValueError: For clips of other types, ranges or unequal sizes, or a size that the network does not take.
        """
        check_clips(self, target, reconstruction)
        if not len(target):
            return
        targets, reconstructions = (self.samples(clamped(clips)).split(self.batch_size)
                                    for clips in (target, reconstruction))
        for one, other in zip(targets, reconstructions, strict=True):
            block = self._blocks[-1]
            self._blocks[-1] = block.plus(None if block.target_known else self.network(one), self.network(other),
                                          keys=pixel_keys(one))

    def compute(self) -> dict[str, float]:
        """The distance over all samples of all processes; ValueError for fewer than two, or other targets loaded."""
        return {self.name: self._distance(self._checked_blocks())}

    def num_samples(self) -> int:
        """Number of reconstructed samples of all processes."""
        return int(sum_numbers_over_processes([sum(block.reconstruction.count for block in self._blocks)])[0])

    def merged(self, others: Sequence[Metric]) -> FrechetMetric:
        check_mergeable(self, others)
        merged = copy.copy(self)
        merged._blocks = [block for metric in (self, *others) for block in metric._blocks]
        return merged

    def target_state(self) -> dict[str, Tensor]:
        return self._only_block("target_state").target.state()

    def load_target_state(self, state: Mapping[str, Tensor]) -> None:
        """Use stored features of the targets, so that the network only sees reconstructions until :meth:`reset`.

        It raises a ValueError if anything was added before, or the state is another network's.
        """
        block = self._only_block("load_target_state")
        if block.reconstruction.count or block.target.count:
            raise ValueError(f"{type(self).__name__}.load_target_state needs a metric without samples; "
                             "call reset first.")
        target = FeatureSet.from_state(state, dim=self.dim, kept=self.kept)
        self._blocks = [FeatureBlock(target, block.reconstruction, target_known=True)]

    def reset(self) -> None:
        empty = FeatureSet(self.dim, kept=self.kept)
        self._blocks = [FeatureBlock(empty, empty)]

    def _only_block(self, method: str) -> FeatureBlock:
        if len(self._blocks) != 1:
            raise ValueError(f"{type(self).__name__}.{method} is for one block, this metric is merged from "
                             f"{len(self._blocks)}; call it on each of them.")
        return self._blocks[0]

    def _checked_blocks(self) -> list[FeatureBlock]:
        """Of all processes, with as many targets as reconstructions, two at least."""
        blocks, who = over_processes(self._blocks), type(self).__name__
        for block in blocks:
            target, reconstruction = block.target, block.reconstruction
            if (target.count, target.checksum) != (reconstruction.count, reconstruction.checksum):
                raise ValueError(f"{who} got {reconstruction.count} reconstructions of other targets than the "
                                 f"{target.count} whose features were loaded; do not call load_target_state, or load "
                                 "the state of exactly these targets.")
        if (count := sum(block.target.count for block in blocks)) < 2:
            raise ValueError(f"{who} needs at least 2 samples for a covariance, got {count}; call update with more.")
        if count <= self.dim and logger.isEnabledFor(logging.WARNING):
            _warn_of_few_samples(who, count, self.dim)
        return blocks

    def _distance(self, blocks: list[FeatureBlock]) -> float:
        sets = [block.target for block in blocks], [block.reconstruction for block in blocks]
        if all(features.complete for features in sets[0]) and sum(features.count for features in sets[0]) <= self.dim:
            return frechet_distance_of_features(*(torch.cat([features.features for features in one]) for one in sets))
        first, second = (gaussian(sum(features.sums() for features in one)) for one in sets)
        return frechet_distance(*first, *second)


@functools.cache
def _warn_of_few_samples(name: str, count: int, dim: int) -> None:
    logger.warning("%s of %d samples in %d dimensions: the covariances are singular and the score depends on the "
                   "number of samples; compare it with scores of as many only.", name, count, dim)


@METRICS.register_module()
class RFID(FrechetMetric):
    """Fréchet inception distance (Heusel et al., arXiv:1706.08500) of reconstructed frames to their targets.

    Features are the 2048 of Inception-2015-12-05's last pool. Every frame of a clip is a sample.

    Args:
        value_type: ``"uint8"`` measures frames rounded to the 256 levels of a saved picture, as
            torch-fidelity and OpenAI's TensorFlow evaluator see them; ``"float"`` does not round. Another one
            raises a ValueError.

    Example:
        >>> rfid, clips = RFID(value_type="float"), torch.rand(1, 3, 2, 32, 32)
        >>> rfid.update(target=clips, reconstruction=clips)   # and more of them, then compute(), which takes seconds
        >>> rfid.samples(clips).shape
        torch.Size([2, 3, 32, 32])
    """

    name, dim = "rfid", 2048
    higher_is_better = {"rfid": False}
    columns = {"rfid": Column("rFID", ".1f")}

    def __init__(self, *, value_type: str = "uint8"):
        super().__init__(_inception(value_type=value_type))

    def samples(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> frames (B * T, 3, H, W)."""
        return rearrange(clips, "b c t h w -> (b t) c h w")


@METRICS.register_module()
class RFVD(FrechetMetric):
    """Fréchet video distance (Unterthiner et al., arXiv:1812.01717) of reconstructed clips to their targets.

    Features are I3D's 400 Kinetics logits. Every clip, of 10 frames or more, is a sample; the number of
    frames changes the score, so clips should be of equal length.

    Example:
        >>> rfvd, black = RFVD(), -torch.ones(2, 3, 10, 32, 32)
        >>> rfvd.update(target=black, reconstruction=-black)
        >>> round(rfvd.compute()["rfvd"])   # published: 569.8
        570
    """

    name, dim, batch_size = "rfvd", 400, 8
    higher_is_better = {"rfvd": False}
    columns = {"rfvd": Column("rFVD", ".0f")}

    def __init__(self) -> None:
        super().__init__(_i3d())

    def samples(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> the clips themselves."""
        return clips
