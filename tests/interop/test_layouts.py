"""Every full-size checkpoint converts with nothing missing and nothing left over, into the published network.

Most tests use torch's meta device: names and shapes, no values.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from interop.foreign import GOLDEN, Tensors, averaged, garbage, lightning, llamagen, patchgan, prefixed, save_torch

from toolkit.interop import Conversion, convert_checkpoint, convert_tensors

SOURCES = sorted(path.stem for path in (GOLDEN / "layouts").glob("*.json"))
TOKENIZERS = [name for name in SOURCES if "discriminator" not in name]
DISCRIMINATOR_OF = {"o2_magvit2_video_256": "o2_discriminator_video_256",
                    "o2_magvit2_image_256": "o2_discriminator_image_256"}

# From the papers, the READMEs and the published configs: (layout, stride, codes, multipliers of 128, blocks of a level
# in the encoder and in the decoder).
PUBLISHED = {
    "o2_magvit2_video_256": ("o2_magvit2", (4, 16, 16), 2**18, (1, 1, 2, 2, 4), (4, 4)),
    "o2_magvit2_image_256": ("o2_magvit2", (1, 16, 16), 2**18, (1, 1, 2, 2, 4), (4, 4)),
    "open_magvit2_image_256": ("open_magvit2", (1, 16, 16), 2**18, (1, 1, 2, 2, 4), (4, 4)),
    "open_magvit2_image_128": ("open_magvit2", (1, 8, 8), 2**18, (1, 2, 2, 4), (4, 4)),
    "open_magvit2_image_pretrain_16384": ("open_magvit2", (1, 16, 16), 2**14, (1, 1, 2, 2, 4), (4, 4)),
    "open_magvit2_video_128": ("open_magvit2", (4, 8, 8), 2**18, (1, 2, 2, 4), (4, 4)),
    "llamagen_vq16": ("llamagen", (1, 16, 16), 16384, (1, 1, 2, 2, 4), (2, 3)),
    "llamagen_vq8": ("llamagen", (1, 8, 8), 16384, (1, 2, 2, 4), (2, 3))}


def tensors_of(source: str, device: str = "meta", fill: Any = torch.empty) -> Tensors:
    shapes = json.loads((GOLDEN / "layouts" / f"{source}.json").read_text())["tensors"]
    return {name: fill(shape, device=device) for name, shape in shapes.items()}


def meta_patchgan(*, video: bool = False) -> Tensors:
    return {name: tensor.to("meta") for name, tensor in patchgan(video=video).items()}


def convert(content: Any) -> Conversion:
    with torch.device("meta"):
        return convert_tensors(content)


def test_every_layout_has_its_published_facts():
    assert set(TOKENIZERS) == set(PUBLISHED)


@pytest.mark.parametrize("source", TOKENIZERS)
def test_published_checkpoint_converts_wholly_into_the_published_network(source):
    layout, stride, codes, multipliers, blocks = PUBLISHED[source]
    tensors = tensors_of(source)
    conversion = convert(tensors)
    tokenizer, config = conversion.tokenizer, conversion.tokenizer.config
    assert (conversion.layout, tokenizer.stride, tokenizer.codebook_size) == (layout, stride, codes)
    for part, num_blocks in (("encoder", blocks[0]), ("decoder", blocks[1])):
        assert config[part]["filters"] == 128
        assert tuple(config[part]["channel_multipliers"]) == multipliers
        assert config[part]["num_res_blocks"] == num_blocks
    constants = set(conversion.skipped.pop("constants", []))
    assert conversion.skipped == {} and constants <= {"quantize.mask", "quantize.codebook_used"}
    numbers = sum(tensor.numel() for name, tensor in tensors.items() if name not in constants)
    assert sum(tensor.numel() for tensor in tokenizer.parameters()) == numbers


@pytest.mark.parametrize(("source", "downsample", "kernel"), [
    ("o2_magvit2_video_256", (False, False, True, True), 3), ("o2_magvit2_image_256", (False,) * 4, 1),
    ("open_magvit2_video_128", (False, True, True), 3), ("open_magvit2_image_128", (False,) * 3, 1)])
def test_levels_that_stride_in_time_are_read_off_the_upsampling(source, downsample, kernel):
    config = convert(tensors_of(source)).tokenizer.config
    for part in ("encoder", "decoder"):
        assert tuple(config[part]["temporal_downsample"]) == downsample
        assert config[part]["temporal_kernel"] == kernel


@pytest.mark.parametrize("source", ["llamagen_vq16", "llamagen_vq8"])
def test_llamagen_has_16384_unit_codes_of_8_and_attention_at_the_coarsest_level(source):
    config = convert(tensors_of(source)).tokenizer.config
    assert config["quantizer"].items() >= dict(type="VQ", codebook_size=16384, dim=8, normalize=True).items()
    for part in ("encoder", "decoder"):
        assert (config[part]["z_channels"], config[part]["norm_eps"]) == (256, 1e-6)
        *finer, coarsest = config[part]["attention"]
        assert coarsest and not any(finer)


@pytest.mark.parametrize(("source", "size", "multipliers"), [
    ("o2_magvit2_video_256", (17, 256, 256), (2, 4, 4, 4, 4)),
    ("o2_magvit2_image_256", (1, 256, 256), (2, 2, 4, 4, 4))])
def test_o2_discriminator_converts_wholly_beside_its_tokenizer(source, size, multipliers):
    discriminator = tensors_of(DISCRIMINATOR_OF[source])
    conversion = convert({**prefixed("tokenizer.", tensors_of(source)), **prefixed("discriminator.", discriminator)})
    assert tuple(conversion.discriminator.size) == size
    assert tuple(conversion.discriminator.config["channel_multipliers"]) == multipliers
    filters = {name for name in discriminator if name.endswith("blur.filt")}
    assert set(conversion.skipped["constants"]) == {"quantize.mask", *(f"discriminator.{name}" for name in filters)}
    assert sum(tensor.numel() for tensor in conversion.discriminator.parameters()) == sum(
        tensor.numel() for name, tensor in discriminator.items() if name not in filters)


@pytest.mark.parametrize("source", [name for name in TOKENIZERS if not name.startswith("o2")])
def test_averaged_copy_of_open_magvit2_and_llamagen_is_used(source):
    tensors, wrap = tensors_of(source), llamagen if source.startswith("llamagen") else lightning
    assert len(averaged(tensors)) == len(tensors)  # names are unique without dots too
    conversion = convert(wrap(tensors, tensors, meta_patchgan(video="video" in source)))
    assert conversion.ema and conversion.discriminator is not None
    assert set(conversion.skipped["replaced by EMA"]) == set(tensors)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["o2_magvit2_image_256", "llamagen_vq16"])
def test_full_size_file_converts_to_its_values(source, tmp_path):
    tensors = tensors_of(source, device="cpu", fill=torch.ones)
    path = save_torch(tensors if source.startswith("o2") else {"model": garbage(tensors), "ema": tensors},
                      tmp_path / "full.bin")
    tokenizer = convert_checkpoint(path).tokenizer
    assert all((parameter == 1).all() for parameter in tokenizer.parameters())
    with torch.no_grad():
        for parameter in tokenizer.parameters():  # ones overflow in so deep a network
            parameter.fill_(1e-3)
    assert tokenizer.tokenize(torch.zeros(1, 3, 1, 64, 64)).shape == (1, 1, 4, 4, 1)
