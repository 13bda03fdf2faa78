"""SimVQ against its formula, against vector_quantize_pytorch, and against the contract."""

import pytest
import torch
import vector_quantize_pytorch
from toolkit_simvq import SimVQ

from toolkit import build_tokenizer, load_config, load_tokenizer
from toolkit.testing import check_quantizer


def of_known_codes(**options) -> SimVQ:
    """Four codes: C = (1, 0), (0, 1), (-1, 0), (1, 1) and W = [[1, 2], [0, 1]] give C W^T."""
    simvq = SimVQ(codebook_size=4, dim=2, **options)
    simvq.codebook.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]]))
    simvq.map.weight.data.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    return simvq


def latents(*vectors: tuple[float, ...]) -> torch.Tensor:
    """Vectors along the last axis of the grid: (1, d, 1, 1, N)."""
    return torch.tensor(vectors).T.reshape(1, len(vectors[0]), 1, 1, len(vectors))


@pytest.mark.parametrize("rotation_trick", [False, True])
def test_simvq_meets_its_contract(rotation_trick):
    check_quantizer(SimVQ(codebook_size=32, dim=6, rotation_trick=rotation_trick))


def test_a_code_is_its_row_times_the_map():
    codes = of_known_codes().codes_from_indices(torch.arange(4).reshape(1, 1, 1, 4, 1))
    assert codes.flatten(2)[0].T.tolist() == [[1, 0], [2, 1], [-1, 0], [3, 1]]  # C W^T by hand


def test_indices_are_the_nearest_codes():
    output = of_known_codes().eval()(latents((0.9, 0.2), (2.4, 1.0), (-5.0, 0.0), (2.6, 1.1)))
    assert output.indices.flatten().tolist() == [0, 1, 2, 3]
    assert output.losses == {}


def test_losses_are_the_squared_distances_of_latents_and_codes():
    output = of_known_codes()(latents((1.0, 0.5), (3.0, 3.0)))  # codes (1, 0) and (3, 1)
    expected = (0.25 + 4.0) / 4
    assert output.losses["codebook"].item() == output.losses["commitment"].item() == pytest.approx(expected)


def test_codebook_loss_moves_the_map_and_commitment_the_latents():
    simvq, z = of_known_codes(), latents((1.0, 0.5)).requires_grad_()
    losses = simvq(z).losses
    by_map, by_latents = torch.autograd.grad(losses["codebook"], [simvq.map.weight, z], allow_unused=True)
    assert by_latents is None
    # d/dW mean((W c - z)^2) = (W c - z) c^T for two channels: (0, -0.5) (1, 0)^T
    assert by_map.tolist() == [[0.0, 0.0], [-0.5, 0.0]]
    by_map, by_latents = torch.autograd.grad(losses["commitment"], [simvq.map.weight, z], allow_unused=True)
    assert by_map is None
    assert by_latents.flatten().tolist() == [0.0, 0.5]


def test_frozen_codebook_is_saved_and_learns_nothing():
    simvq = SimVQ(codebook_size=4096, dim=16)
    assert set(simvq.state_dict()) == {"codebook", "map.weight"}
    assert [name for name, _ in simvq.named_parameters()] == ["map.weight"]
    assert simvq.codebook.std().item() == pytest.approx(16**-0.5, rel=0.02)


@pytest.mark.parametrize("rotation_trick", [False, True])
def test_simvq_equals_vector_quantize_pytorch(rotation_trick):
    ours = SimVQ(codebook_size=64, dim=8, rotation_trick=rotation_trick)
    theirs = vector_quantize_pytorch.SimVQ(dim=8, codebook_size=64, rotation_trick=rotation_trick)
    theirs.frozen_codebook.copy_(ours.codebook)
    theirs.code_transform.load_state_dict(ours.map.state_dict())
    z = torch.randn(2, 8, 1, 4, 6)
    one, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    output = ours(one)
    loss = sum(ours.loss_weights[name] * value for name, value in output.losses.items())
    codes, indices, their_loss = theirs(other.flatten(2).mT)
    assert torch.equal(output.indices.reshape(2, 24), indices)
    torch.testing.assert_close(output.codes.flatten(2).mT, codes)
    torch.testing.assert_close(loss, their_loss)  # their default weights: 1 for the codebook, 0.25 for the latents
    pull = torch.randn_like(codes)
    ((output.codes.flatten(2).mT * pull).sum() + loss).backward()
    ((codes * pull).sum() + their_loss).backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.map.weight.grad, theirs.code_transform.weight.grad)


@pytest.mark.parametrize("arguments", [dict(codebook_size=1, dim=4), dict(codebook_size=8, dim=0)])
def test_no_codebook_is_refused(arguments):
    with pytest.raises(ValueError, match="SimVQ needs codebook_size of at least 2 and dim of at least 1"):
        SimVQ(**arguments)


def test_a_saved_tokenizer_gives_the_same_tokens(tmp_path):
    network = load_config("configs/demo_video.py").tokenizer
    tokenizer = build_tokenizer({**network, "quantizer": dict(type="SimVQ", codebook_size=32, dim=6)}).eval()
    pixels = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(load_tokenizer(tmp_path).tokenize(pixels), tokenizer.tokenize(pixels))
