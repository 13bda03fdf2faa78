"""torch.compile and torch.export give what eager mode gives."""

from __future__ import annotations

import itertools

import pytest
import torch

from toolkit import build_tokenizer
from toolkit.contracts import QuantizerOutput, TokenizerOutput
from toolkit.tokenizer import Tokenizer

MAGVIT2 = dict(filters=4, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,), num_groups=2)
VQGAN = dict(filters=4, channel_multipliers=(1, 2), num_res_blocks=1, z_channels=4, num_groups=2)
FAMILIES = {"MAGVIT2": dict(MAGVIT2), "VQGAN": dict(VQGAN), "MAGVIT2 clip": dict(MAGVIT2, norm_scope="clip")}


def make(family: str, quantizer: dict) -> Tokenizer:
    name = family.split()[0]
    return build_tokenizer(dict(encoder=dict(FAMILIES[family], type=f"{name}Encoder"), quantizer=quantizer,
                                decoder=dict(FAMILIES[family], type=f"{name}Decoder"))).eval()


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


QUICK = {("MAGVIT2", "tokenizer", 5, False), ("MAGVIT2", "encoder", 2, True)}  # compiling takes seconds
CASES = [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in itertools.product(
    ("MAGVIT2", "VQGAN"), ("tokenizer", "encoder", "decoder"), (1, 2, 5), (False, True))]


@pytest.mark.parametrize(("family", "component", "frames", "grad"), CASES)
def test_aot_eager_equals_eager(family, component, frames, grad):
    tokenizer = make(family, dict(type="LFQ", bits=4))
    pixels = torch.rand(1, 3, frames, 16, 16) * 2 - 1
    network, x = {"tokenizer": (tokenizer, pixels), "encoder": (tokenizer.encoder, tokenizer._pad(pixels)),
                  "decoder": (tokenizer.decoder, tokenizer.encode(pixels).codes.detach())}[component]
    with torch.set_grad_enabled(grad):
        expected, output = network(x), torch.compile(network, backend="aot_eager")(x)
    if component == "tokenizer":
        assert torch.equal(output.indices, expected.indices)
        expected, output = expected.reconstruction, output.reconstruction
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    if grad:
        weights = list((tokenizer.decoder if component == "tokenizer" else network).parameters())
        gradients = [torch.autograd.grad(one.square().sum(), weights) for one in (output, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("family", "quantizer", "frames"), [
    ("MAGVIT2", dict(type="BSQ", bits=4), 5), ("MAGVIT2 clip", dict(type="FSQ", levels=[4, 4]), 2),
    ("VQGAN", dict(type="VQ", codebook_size=8, dim=4), 1), ("VQGAN", dict(type="Identity", dim=4), 2)],
    ids=lambda value: value["type"] if isinstance(value, dict) else str(value))
@torch.no_grad()
def test_an_exported_tokenizer_gives_the_same_output(family, quantizer, frames):
    tokenizer, pixels = make(family, quantizer), torch.rand(1, 3, frames, 14, 16) * 2 - 1
    expected = tokenizer(pixels)
    output = torch.export.export(tokenizer, (pixels,)).module()(pixels)
    assert type(output) is TokenizerOutput and output.losses == {}
    torch.testing.assert_close(output.reconstruction, expected.reconstruction, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.indices, expected.indices)


@pytest.mark.parametrize(("family", "quantizer"), [
    ("MAGVIT2", dict(type="LFQ", bits=4)), ("VQGAN", dict(type="VQ", codebook_size=8, dim=4))],
    ids=["MAGVIT2", "VQGAN"])
@torch.no_grad()
def test_an_exported_tokenizer_takes_batches_of_every_size(family, quantizer):
    tokenizer, pixels = make(family, quantizer), torch.rand(3, 3, 5, 14, 16) * 2 - 1
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(tokenizer, (pixels[:2],), dynamic_shapes=({0: batch},)).module()
    for size in (1, 3):
        output, expected = exported(pixels[:size]), tokenizer(pixels[:size])
        torch.testing.assert_close(output.reconstruction, expected.reconstruction, rtol=0, atol=1e-5)
        assert torch.equal(output.indices, expected.indices)


@torch.no_grad()
def test_an_exported_quantizer_survives_a_file(tmp_path):
    quantizer, latents = make("VQGAN", dict(type="LFQ", bits=4)).quantizer, torch.randn(1, 4, 1, 2, 2)
    torch.export.save(torch.export.export(quantizer, (latents,)), tmp_path / "quantizer.pt2")
    output = torch.export.load(tmp_path / "quantizer.pt2").module()(latents)
    assert type(output) is QuantizerOutput
    assert torch.equal(output.indices, quantizer(latents).indices) and torch.equal(output.codes, latents.sign())
