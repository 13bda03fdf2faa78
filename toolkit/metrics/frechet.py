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
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from toolkit.contracts import Metric
from toolkit.pretrained import i3d_network, inception_network
from toolkit.registry import METRICS

logger = logging.getLogger(__name__)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """The squared Fréchet distance of two Gaussians, in float64.

    ``|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2))``, whose last trace is taken from the
    eigenvalues of a symmetric matrix: no root of a product that may be singular, nothing complex.

    Args:
        mean1, mean2: (D,).
        cov1, cov2: (D, D), symmetric and positive semi-definite; they may be singular.

    Returns:
        At least 0; NaN if anything given is not finite.

    Raises:
        ValueError: If the shapes do not fit.

    Source: Dowson & Landau, J. Multivariate Analysis 12 (1982), 450-455.

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
    values, vectors = torch.linalg.eigh(cov1)
    kept = values > values[-1] * dim * torch.finfo(torch.float64).eps  # the rest is rounding, whose root is not small
    root = vectors[:, kept] * values[kept].sqrt()  # (D, rank), cov1 = root @ root.T
    # root.T @ cov2 @ root has the eigenvalues of cov1 @ cov2, but for zeros.
    shared = torch.linalg.eigvalsh(root.T @ cov2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * shared
    return max(distance.item(), 0.0)


class FeatureSums:
    """What a Gaussian needs of any number of feature vectors: how many, their sum, and their outer products'.

    All three are in one matrix, the sum of ``[x, 1] [x, 1]^T``, in float64 on the CPU.

    Args:
        dim: D.

    Example:
        >>> sums = FeatureSums(1)
        >>> sums.add(torch.tensor([[1.0], [2.0], [6.0]]))
        >>> sums.count(), sums.gaussian()
        (3, (tensor([3.], dtype=torch.float64), tensor([[7.]], dtype=torch.float64)))
    """

    def __init__(self, dim: int):
        self.matrix = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add vectors (N, D) of any float dtype, on any device."""
        extended = F.pad(features.detach().cpu().double(), (0, 1), value=1.0)
        self.matrix.addmm_(extended.T, extended)

    def over_processes(self) -> FeatureSums:
        """The sums of what every process has added; on one process, its own."""
        if not (dist.is_available() and dist.is_initialized()):
            return self
        # By backend, not by input: a process that saw no batch must still choose as the others do.
        device = torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend() else "cpu"
        matrix = self.matrix.to(device, copy=True)
        dist.all_reduce(matrix)
        joined = copy.copy(self)
        joined.matrix = matrix.cpu()
        return joined

    def count(self) -> int:
        """How many vectors were added."""
        return int(self.matrix[-1, -1])

    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and unbiased covariance (D, D) of at least two vectors."""
        count = self.matrix[-1, -1]
        mean = self.matrix[-1, :-1] / count
        return mean, (self.matrix[:-1, :-1] - count * torch.outer(mean, mean)) / (count - 1)


class FrechetMetric(Metric):
    """The Fréchet distance of reconstructions to targets in a network's features; an author writes :meth:`samples`.

    Attributes:
        name: What the score is called in :meth:`compute`'s result.
        dim: D, the number of features.
        batch_size: How many samples go through the network at once, which bounds its memory.

    Args:
        network: Samples (N, ...) -> features (N, D).

    Example:
        >>> class Brightness(FrechetMetric):
        ...     name, dim, higher_is_better = "brightness", 1, {"brightness": False}
        ...     def samples(self, clips): return clips
        >>> metric = Brightness(lambda clips: clips.mean((1, 2, 3, 4)).unsqueeze(1))
        >>> clips = torch.tensor([-0.5, 0.0, 0.5]).view(3, 1, 1, 1, 1)
        >>> metric.update(target=clips, reconstruction=clips + 0.5)
        >>> metric.compute()
        {'brightness': 0.25}
    """

    name: str
    dim: int
    batch_size = 32

    def __init__(self, network: Callable[[Tensor], Tensor]):
        self.network = network
        self.reset()

    @abstractmethod
    def samples(self, clips: Tensor) -> Tensor:
        """Clips (B, C, T, H, W) in [-1, 1] -> the samples (N, ...) that they are."""

    @torch.no_grad()
    def update(self, *, target: Tensor, reconstruction: Tensor, indices: Tensor | None = None) -> None:
        """Add a batch of clips (B, C, T, H, W) in [-1, 1]; indices are not used.

        Raises:
            ValueError: If the two have different sizes, or the network does not take them.
        """
        if target.shape != reconstruction.shape or target.ndim != 5:
            raise ValueError(f"{type(self).__name__} compares clips (B, C, T, H, W) of equal size, got "
                             f"{tuple(target.shape)} and {tuple(reconstruction.shape)}.")
        for sums, clips in ((self._target, target), (self._reconstruction, reconstruction)):
            for part in self.samples(clips.float().clamp(-1, 1)).split(self.batch_size):
                sums.add(self.network(part))

    def compute(self) -> dict[str, float]:
        """The distance over all samples of all processes; few samples are warned of, once.

        Raises:
            ValueError: If there are fewer than two.
        """
        target, reconstruction = self._target.over_processes(), self._reconstruction.over_processes()
        if (count := target.count()) < 2:
            raise ValueError(f"{type(self).__name__} needs at least 2 samples for a covariance, got {count}; "
                             "call update with more.")
        if count <= self.dim:
            _warn_of_few_samples(type(self).__name__, count, self.dim)
        return {self.name: frechet_distance(*target.gaussian(), *reconstruction.gaussian())}

    def reset(self) -> None:
        """Forget everything."""
        self._target, self._reconstruction = FeatureSums(self.dim), FeatureSums(self.dim)


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
            torch-fidelity and OpenAI's TensorFlow evaluator see them; ``"float"`` does not round.

    Raises:
        ValueError: If ``value_type`` is another one.

    Example:
        >>> rfid, clips = RFID(value_type="float"), torch.rand(1, 3, 2, 32, 32)
        >>> rfid.update(target=clips, reconstruction=clips)   # and more of them, then compute(), which takes seconds
        >>> rfid.samples(clips).shape
        torch.Size([2, 3, 32, 32])
    """

    name, dim = "rfid", 2048
    higher_is_better = {"rfid": False}

    def __init__(self, *, value_type: str = "uint8"):
        super().__init__(inception_network(value_type=value_type))

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

    def __init__(self) -> None:
        super().__init__(i3d_network())

    def samples(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> the clips themselves."""
        return clips
