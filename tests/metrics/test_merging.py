"""Merging: what is refused, and that the contract check finds wrong merging."""

import pytest

from toolkit.metrics import LPIPS, PSNR, SSIM, Codebook
from toolkit.metrics.frames import FrameMean
from toolkit.testing import ContractViolation, check_metric


class Error(FrameMean):
    name, higher_is_better = "error", {"error": False}

    def score(self, target, reconstruction):
        return (target - reconstruction).abs().mean((1, 2, 3))


class MeanOfMeans(Error):
    def merged(self, others):
        merged = super().merged(others)
        seen = [m for m in (self, *others) if m._frames]
        merged._total = sum(m._total / m._frames for m in seen) / len(seen) * merged._frames
        return merged


class IntoItself(Error):
    def merged(self, others):
        self._total += sum(other._total for other in others)
        self._frames += sum(other._frames for other in others)
        return self


class Shared(Error):
    def reset(self):
        self.errors = []

    def update(self, *, target, reconstruction, indices):
        self.errors += (target - reconstruction).abs().mean((1, 2, 3, 4)).tolist()

    def compute(self):
        return {"error": sum(self.errors) / len(self.errors)}

    def num_samples(self):
        return len(self.errors)

    def merged(self, others):
        merged = Shared()
        merged.errors = self.errors  # not a copy
        for other in others:
            merged.errors += other.errors
        return merged


class Uncounted(Error):
    def num_samples(self):
        return 1


@pytest.mark.parametrize(("metric", "message"), [
    (MeanOfMeans(), "merging counts as updating one.*scores of the joined batch"),
    (IntoItself(), "do not change each other.*after the first merged metric was updated"),
    (Shared(), "do not change each other"), (Uncounted(), "of 0 for none")])
def test_the_contract_check_finds_wrong_merging(metric, message):
    with pytest.raises(ContractViolation, match=message):
        check_metric(metric, processes=(1,))


def test_the_contract_check_passes_correct_merging():
    check_metric(Error(), processes=(1,))


@pytest.mark.parametrize(("metric", "other"), [
    (PSNR(), SSIM()), (LPIPS(net="alex"), LPIPS(net="vgg")), (Codebook(codebook_size=8), Codebook(codebook_size=9)),
    (Codebook(codebook_size=8, fps=8), Codebook(codebook_size=8, fps=9))])
def test_metrics_of_other_classes_or_arguments_are_refused(metric, other):
    with pytest.raises(ValueError, match=f"{type(metric).__name__} merges with metrics like"):
        metric.merged([other])
