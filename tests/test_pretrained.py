"""Frozen published networks: the published numbers, and that nothing can train or save them."""

import copy

import lpips
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from skimage import data
from torch import nn

from toolkit.pretrained import Frozen, classifier, i3d_network, inception_network, lpips_network


class Parent(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.own, self.perceptual = nn.Linear(2, 2), Frozen(network)


@pytest.fixture
def parent() -> Parent:
    return Parent(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)))


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


@pytest.mark.parametrize("build", [
    i3d_network, inception_network, lambda: lpips_network("alex"),
    lambda: classifier("tf_efficientnet_lite0", weights="weights/efficientnet_lite0")],
    ids=["i3d", "inception", "lpips", "classifier"])
def test_building_a_network_does_not_change_the_random_state(build):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build()
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_lpips_net_is_refused():
    with pytest.raises(ValueError, match="'alex' or 'vgg', got 'squeeze'"):
        lpips_network("squeeze")


@pytest.mark.parametrize(("photo", "labels"), [("chelsea", (281, 282, 285)), ("coffee", (967,)),
                                               ("rocket", (657,))])
def test_the_classifier_knows_photos(photo, labels):
    """Cats (tabby, tiger, Egyptian), an espresso, a missile: weights and normalisation are right."""
    network = classifier("tf_efficientnet_lite0", weights="weights/efficientnet_lite0")
    image = torch.from_numpy(getattr(data, photo)()).permute(2, 0, 1)[None] / 127.5 - 1
    side = min(image.shape[2:])
    top, left = (image.shape[2] - side) // 2, (image.shape[3] - side) // 2
    square = image[:, :, top:top + side, left:left + side]
    small = F.interpolate(square, (224, 224), mode="bilinear", antialias=True)
    assert network(small).argmax().item() in labels


def test_classifier_statistics_are_timms():
    network = classifier("tf_efficientnet_lite0", weights="weights/efficientnet_lite0").network
    assert network.mean.tolist() == network.std.tolist() == [0.5] * 3
    assert network.input_size == (3, 224, 224)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_classifier_weights_may_be_a_local_file(suffix, tmp_path):
    model = classifier("tf_efficientnet_lite0", weights="weights/efficientnet_lite0").network.model
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(classifier("tf_efficientnet_lite0", weights=path)(x), model(x))


def test_classifier_misfits_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean .*tf_efficientnet_lite0"):
        classifier("tf_efficientnet_lite00", weights="weights/efficientnet_lite0")
    with pytest.raises(ValueError, match="does not exist"):
        classifier("tf_efficientnet_lite0", weights=tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="does not fit"):
        classifier("tf_efficientnet_lite1", weights="weights/efficientnet_lite0")
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"(?s)does not fit.*conv_stem"):
        classifier("tf_efficientnet_lite0", weights=tmp_path / "w.pth")
