"""Inception-2015: torch-fidelity's numbers, the archive's own graph, TensorFlow's resizing."""

import os
import warnings

import numpy as np
import pytest
import torch
from skimage import data

from toolkit import assets
from toolkit.assets import AssetError
from toolkit.pretrained import inception_network
from toolkit.pretrained.inception import resize_as_tensorflow


@pytest.fixture(scope="module")
def cat() -> torch.Tensor:
    return torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, 300, 451)


def test_features_are_torch_fidelitys(cat):
    """torch_fidelity 0.4.0's FeatureExtractorInceptionV3 on skimage's cat, as uint8."""
    features = inception_network()(cat)[0]
    assert features[:4].tolist() == pytest.approx([0.4304365, 0.6169767, 0.4169647, 0.1729750], abs=1e-5)
    assert features.sum().item() == pytest.approx(502.81277, rel=1e-5)
    assert features.square().sum().item() == pytest.approx(270.31458, rel=1e-5)
    first = inception_network(features=64)(cat)[0]
    assert first[:4].tolist() == pytest.approx([2.2320585, 1.6440766, 2.2972553, 0.8444961], abs=1e-5)


def test_layers_are_the_archives_own_graph():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        graph = torch.jit.load(str(assets.fetch("weights/inception_2015")))
    frames = torch.rand(2, 3, 299, 299) * 2 - 1
    expected = graph(((frames + 1) * 127.5 - 128) / 128)
    assert torch.allclose(inception_network(value_type="float")(frames), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(17, 40), (299, 299), (400, 301)])
def test_resizing_samples_at_multiples_of_the_scale(size):
    frame = torch.rand(1, 1, *size)
    rows, columns = (np.arange(299) * length / 299 for length in size)
    expected = np.stack([np.interp(columns, np.arange(size[1]), row) for row in frame[0, 0].numpy()])
    expected = np.stack([np.interp(rows, np.arange(size[0]), column) for column in expected.T], axis=1)
    assert np.abs(resize_as_tensorflow(frame, size=299)[0, 0].numpy() - expected).max() < 1e-4


def test_uint8_rounds_frames_to_256_levels_and_float_does_not(cat):
    off = cat + 0.3 / 127.5  # between two levels, the white pixels beyond the last
    saved, exact = inception_network(features=64), inception_network(features=64, value_type="float")
    assert torch.allclose(saved(off), saved(cat), atol=1e-5) and torch.allclose(exact(cat), saved(cat), atol=1e-5)
    assert (exact(off) - exact(cat)).abs().max() > 1e-4


def test_gradient_reaches_float_frames():
    frames = torch.zeros(1, 3, 32, 32, requires_grad=True)
    inception_network(features=64, value_type="float")(frames).sum().backward()
    assert frames.grad.abs().sum() > 0


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="'uint8' or 'float', got 'int8'"):
        inception_network(value_type="int8")
    with pytest.raises(ValueError, match="64 or 2048, got 192"):
        inception_network(features=192)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got \(1, 1, 8, 8\)"):
        inception_network(features=64)(torch.zeros(1, 1, 8, 8))


def test_missing_weights_are_an_error(tmp_path, monkeypatch):
    for name, value in {"TOOLKIT_CACHE": tmp_path, "PIP_NO_INDEX": 1, "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(AssetError, match="weights/inception_2015"):
        inception_network()
