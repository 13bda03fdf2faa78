"""Every metric refuses what is no float pixels in [-1, 1], before a clamp hides it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pooled import Thumbnails
from testing.test_every_component import TINY
from torch import Tensor

from toolkit.build import build_component
from toolkit.contracts import Metric
from toolkit.metrics import PSNR, SSIM
from toolkit.registry import METRICS

INDICES = torch.zeros(1, 1, 1, 1, 1, dtype=torch.int64)
FIRST = {name: dict(choices[0], type=name) for name, choices in TINY["metric"].items()}
READS_VALUES = sorted(FIRST.keys() - {"Codebook"})  # which only counts the pixels


def grey(value: float = 0.0, *, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((1, 3, 10, 32, 32), value).to(dtype)


def bytes_of(seed: int) -> Tensor:
    return torch.randint(256, (1, 3, 10, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def metrics() -> dict[str, Metric]:
    return {name: build_component(METRICS, config) for name, config in FIRST.items()}


def update(metric: Metric, target, reconstruction) -> None:
    metric.reset()
    metric.update(target=target, reconstruction=reconstruction, indices=INDICES)


TYPES = {
    "uint8": (bytes_of(0), r"got torch.uint8; x / 127.5 - 1"), "int16": (bytes_of(0).short(), "got torch.int16"),
    "int64": (bytes_of(0).long(), "got torch.int64"), "bool": (grey().bool(), r"got torch.bool; x \* 2.0 - 1"),
    "complex": (grey().to(torch.complex64), "got torch.complex64"),
    "NumPy": (grey().numpy(), "got numpy.ndarray of float32; .*as_tensor"),
    "NumPy uint8": (bytes_of(0).numpy(), r"got numpy.ndarray of uint8; .*x / 127.5 - 1"),
    "list": ([[0.0, 1.0]], "got builtins.list; .*as_tensor"), "None": (None, "got builtins.NoneType")}
TARGETS = {
    "0 to 255": (bytes_of(0).float(), r"takes float pixels in \[-1, 1\] as target, got 0 to 255; x / 127.5 - 1"),
    "float16": (bytes_of(0).half(), "takes .* got 0 to 255"),
    "above": (grey(1.02), "takes .* got 1.02 to 1.02; .*clamp"),
    "below": (grey(-2.1), "takes .* got -2.1 to -2.1"),
    "infinity": (grey(math.inf), "needs finite pixels as target"),
    "NaN": (grey(math.nan), "needs finite pixels as target, got NaN or infinity in 30720 of 30720 elements")}
RECONSTRUCTIONS = {
    "0 to 255": (bytes_of(1).float(), "got 0 to 255, 127.*on average; x / 127.5 - 1"),
    "float64": (bytes_of(1).double(), "got 0 to 255, 127"), "float16": (bytes_of(1).half(), "got 0 to 255, 127"),
    "not clamped": (1.1 * bytes_of(1).float() - 12, "got -12 to 268.5"), "dark": (bytes_of(1) / 3, "got 0 to 85, 42"),
    "night": ((bytes_of(1) // 16).float(), "got 0 to 15, 7"),
    "bfloat16 night": ((bytes_of(1) // 9).bfloat16(), "got 0 to 28")}


@pytest.mark.parametrize("case", TYPES)
@pytest.mark.parametrize("name", FIRST)
def test_other_types_are_refused(metrics, name, case):
    pixels, words = TYPES[case]
    for pair, role in (((pixels, grey()), "target"), ((grey(), pixels), "reconstruction")):
        with pytest.raises(ValueError, match=rf"^{name} takes float pixels in \[-1, 1\] as {role}, {words}"):
            update(metrics[name], *pair)


@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("name", READS_VALUES)
def test_targets_out_of_range_are_refused(metrics, name, case):
    pixels, words = TARGETS[case]
    with pytest.raises(ValueError, match=f"^{name} {words}"):
        update(metrics[name], pixels, grey())


@pytest.mark.parametrize("case", RECONSTRUCTIONS)
@pytest.mark.parametrize("name", READS_VALUES)
def test_reconstructions_in_another_range_are_refused(metrics, name, case):
    pixels, words = RECONSTRUCTIONS[case]
    with pytest.raises(ValueError, match=rf"^{name} takes float pixels of about \[-1, 1\] as reconstruction, {words}"):
        update(metrics[name], grey(), pixels)


@pytest.mark.parametrize("name", READS_VALUES)
def test_a_batch_of_no_clips_adds_nothing_and_clips_without_pixels_are_refused(metrics, name):
    update(metrics[name], grey()[:0], grey()[:0])
    assert metrics[name].num_samples() == 0
    for empty in (grey()[:, :, :0], grey()[..., :0]):
        with pytest.raises(ValueError, match=rf"^{name} compares clips \(B, C, T, H, W\) with pixels, got \(1, 3"):
            update(metrics[name], empty, empty)


def test_clips_on_two_devices_are_refused():
    with pytest.raises(ValueError, match=r"PSNR compares clips on one device, got cpu and meta; target.to\('meta'\)"):
        update(PSNR(), grey(), grey().to("meta"))


@pytest.mark.parametrize(("scale", "shift"), [(5, 3), (5, -11), (3, 20), (0.1, 25), (300, 0), (3000, 2000), (1, -99)])
@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_pixels_of_networks_untrained_or_diverged_are_scored_as_clamped(metric, scale, shift):
    target = torch.rand(1, 3, 2, 16, 16) * 2 - 1
    far = scale * torch.randn(target.shape) + shift
    scores = []
    for reconstruction in (far, far.clamp(-1, 1)):
        metric.reset()
        metric.update(target=target, reconstruction=reconstruction)
        scores.append(metric.compute())
    assert scores[0] == scores[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_dtype_is_scored_in_float32(dtype):
    target = (torch.rand(1, 3, 2, 16, 16) * 2 - 1).to(dtype)
    noisy = (target + 0.1 * torch.randn(target.shape)).to(dtype)
    error = (target.double() - noisy.double().clamp(-1, 1)).square().mean((0, 1, 3, 4)).numpy() / 4
    metric = PSNR()
    metric.update(target=target, reconstruction=noisy)
    assert metric.compute()["psnr"] == pytest.approx(np.mean(-10 * np.log10(error)), rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["LPIPS", "PSNR", "SSIM", "Thumbnails"])
def test_a_reconstruction_that_is_not_finite_scores_nan(metrics, name, value):
    target, metric = torch.rand(2, 3, 10, 32, 32) * 2 - 1, Thumbnails() if name == "Thumbnails" else metrics[name]
    reconstruction = target.clone()
    reconstruction[0, 1, 2, 3, 4] = value
    update(metric, target, reconstruction)
    assert all(map(math.isnan, metric.compute().values()))
