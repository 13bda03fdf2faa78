"""Residual and grouped quantization: sums and groups of children, dropout, scales, losses, and any child."""

from __future__ import annotations

import pytest
import torch
from quantizers.formulas import as_latents

from toolkit.build import build_component, build_tokenizer
from toolkit.quantizers import FSQ, IBQ, LFQ, VQ, Grouped, Residual
from toolkit.registry import QUANTIZERS


def test_groups_of_signs_equal_codebooks_of_consecutive_channels():
    grouped = Grouped(quantizers=[LFQ(bits=4), LFQ(bits=4), LFQ(bits=4)])
    together, z = LFQ(bits=4, num_codebooks=3), torch.randn(2, 12, 1, 3, 3, requires_grad=True)
    ours, theirs = grouped(z), together(z)
    assert torch.equal(ours.indices, theirs.indices) and torch.equal(ours.codes, theirs.codes)
    torch.testing.assert_close(ours.losses, theirs.losses)
    for name in ("dim", "codebook_size", "num_codebooks", "loss_weights"):
        assert getattr(grouped, name) == getattr(together, name)


def test_groups_may_have_unequal_widths():
    grouped = Grouped(quantizers=[VQ(codebook_size=8, dim=2), VQ(codebook_size=8, dim=5)]).eval()
    z = torch.randn(1, 7, 1, 2, 2)
    output = grouped(z)
    for column, (child, part) in enumerate(zip(grouped.quantizers, z.split([2, 5], dim=1), strict=True)):
        assert torch.equal(child(part).indices[..., 0], output.indices[..., column])
    assert torch.equal(grouped.codes_from_indices(output.indices), output.codes)


def test_scales_count_for_children_without_one():
    residual = Residual(quantizers=[FSQ(levels=[5, 5]), FSQ(levels=[5, 5])], scales=[1.0, 0.25]).eval()
    z, coarse = as_latents(torch.randn(30, 2)), FSQ(levels=[5, 5]).eval()
    first = coarse(z).codes
    torch.testing.assert_close(residual(z).codes, first + 0.25 * coarse((z - first) / 0.25).codes)


def test_first_columns_decode_to_a_coarser_code():
    residual = Residual(quantizers=[LFQ(bits=4, num_codebooks=2), LFQ(bits=4, num_codebooks=2, scale=0.5)]).eval()
    output = residual(torch.randn(1, 8, 1, 2, 2))
    coarse = residual.codes_from_indices(output.indices[..., :2])
    assert torch.equal(coarse, LFQ(bits=4, num_codebooks=2).codes_from_indices(output.indices[..., :2]))
    with pytest.raises(ValueError, match=r"integer indices \(B, t, h, w, 4\)"):
        residual.codes_from_indices(output.indices[..., :3])


@pytest.mark.parametrize("rotation_trick", [False, True])
def test_gradient_passes_the_sum_once(rotation_trick):
    residual = Residual(quantizers=[VQ(codebook_size=4, dim=2) for _ in range(3)], rotation_trick=rotation_trick)
    z, upstream = torch.randn(1, 2, 1, 1, 5, requires_grad=True), torch.randn(1, 2, 1, 1, 5)
    residual(z).codes.backward(upstream)
    assert torch.equal(z.grad, upstream) is not rotation_trick
    assert torch.isfinite(z.grad).all() and z.grad.abs().sum() > 0


def test_losses_are_the_means_of_the_levels():
    levels = [VQ(codebook_size=4, dim=2) for _ in range(2)]
    z = as_latents(torch.randn(10, 2))
    losses = Residual(quantizers=levels)(z).losses
    first = levels[0](z)
    second = levels[1](z - first.codes.detach())
    for name in ("codebook", "commitment"):
        torch.testing.assert_close(losses[name], (first.losses[name] + second.losses[name]) / 2)


def test_children_of_unequal_weights_count_as_their_weighted_mean():
    quantizers = [VQ(codebook_size=4, dim=2), IBQ(codebook_size=4, dim=2)]
    grouped = Grouped(quantizers=quantizers)
    z = torch.randn(1, 4, 1, 1, 6)
    losses = grouped(z).losses
    own = [child(part).losses for child, part in zip(quantizers, z.split(2, dim=1), strict=True)]
    assert grouped.loss_weights["commitment"] == (0.25 + 1.0) / 2
    torch.testing.assert_close(grouped.loss_weights["commitment"] * losses["commitment"],
                               (0.25 * own[0]["commitment"] + 1.0 * own[1]["commitment"]) / 2)
    torch.testing.assert_close(losses["quantization"], own[1]["quantization"])  # of the one that has it


def test_children_whose_weights_cancel_are_refused():
    children = [LFQ(bits=2), LFQ(bits=2)]
    children[1].loss_weights = {"commitment": -0.25}
    with pytest.raises(ValueError, match=r"Grouped needs loss weights whose mean is not 0, got .* for 'commitment'"):
        Grouped(quantizers=children)


def test_quantize_dropout_decodes_the_first_levels_and_keeps_all_indices():
    residual = Residual(quantizers=[LFQ(bits=3, scale=2.0**-i) for i in range(4)], quantize_dropout=1.0)
    z = torch.randn(1, 3, 1, 2, 2)
    indices = residual.eval()(z).indices
    coarse = [residual.codes_from_indices(indices[..., :num]) for num in (1, 2, 3, 4)]
    seen = set()
    residual.train()
    for _ in range(60):
        output = residual(z)
        assert torch.equal(output.indices, indices)
        seen |= {num for num, codes in enumerate(coarse, 1) if torch.equal(codes, output.codes)}
    assert seen == {1, 2, 3, 4}
    assert torch.equal(residual.eval()(z).codes, coarse[-1])


@pytest.mark.parametrize("child", [dict(type="LFQ", bits=4), dict(type="BSQ", bits=4),
                                   dict(type="FSQ", levels=[3, 3, 3]),
                                   dict(type="VQ", codebook_size=9, dim=4, update="ema"),
                                   dict(type="IBQ", codebook_size=9, dim=4),
                                   dict(type="Grouped", quantizers=[dict(type="LFQ", bits=2)] * 2),
                                   dict(type="Residual", quantizers=[dict(type="LFQ", bits=2)] * 2)])
@pytest.mark.parametrize("kind", ["Residual", "Grouped"])
def test_any_quantizer_may_be_a_child_and_config_round_trips(kind, child):
    built = build_component(QUANTIZERS, dict(type=kind, quantizers=[child, child])).eval()
    again = build_component(QUANTIZERS, built.config).eval()
    assert again.config == built.config
    again.load_state_dict(built.state_dict())
    output = built(torch.randn(2, built.dim, 1, 2, 3))
    assert output.indices.shape == (2, 1, 2, 3, built.num_codebooks)
    assert torch.equal(again.codes_from_indices(output.indices), output.codes)


def test_tokenizer_of_a_residual_is_built_from_a_config():
    network = dict(filters=8, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,), num_groups=4)
    tokenizer = build_tokenizer(dict(
        encoder=dict(type="MAGVIT2Encoder", **network), decoder=dict(type="MAGVIT2Decoder", **network),
        quantizer=dict(type="Residual", quantizers=[dict(type="BSQ", bits=6)] * 3))).eval()
    indices, size = tokenizer.tokenize(torch.zeros(1, 3, 5, 8, 8), return_size=True)
    assert indices.shape == (1, 3, 4, 4, 3) and tokenizer.detokenize(indices, size).shape == (1, 3, 5, 8, 8)
