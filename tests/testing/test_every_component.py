"""Every registered component of every kind meets its contract.

A new component needs one line in ``TINY``: its type, and arguments that make it small; one with options
has one set of arguments for each that changes what it computes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from data.numbered import encode
from data.tars import noise, write_image_shards, write_shard
from PIL import Image
from testing.variants import check

from toolkit.build import build_component
from toolkit.registry import ALL, BASELINES, CHECKPOINTS, Registry

MAGVIT2 = dict(filters=8, channel_multipliers=(1, 2), num_res_blocks=1, temporal_downsample=(True,), num_groups=4)
VQGAN = dict(filters=8, channel_multipliers=(1, 2), num_res_blocks=1, z_channels=8, num_groups=4)
VQ = dict(type="VQ", codebook_size=8, dim=4)
LFQ = dict(type="LFQ", bits=4)
BITS = [dict(LFQ, scale=0.5**level) for level in range(3)]
CLIPS = dict(num_frames=3, size=32)
FOLDER = tempfile.TemporaryDirectory()  # it goes when the session ends
TARS = Path(FOLDER.name)
write_image_shards(TARS, sizes=[3, 2])
(TARS / "photos").mkdir()
Image.fromarray(noise(0, height=40, width=60)).save(TARS / "photos" / "0.png")
write_shard(TARS / "clips.tar", {"a": {"mp4": encode(TARS / "a.mp4", num_frames=9).read_bytes()}})

TINY: dict[str, dict[str, list[dict[str, Any]]]] = {
    "encoder": {
        "MAGVIT2Encoder": [
            dict(MAGVIT2), dict(MAGVIT2, norm_scope="clip"), dict(MAGVIT2, padding="replicate", downsample_kernel=4),
            dict(MAGVIT2, temporal_kernel=1, temporal_downsample=(False,)),
            dict(MAGVIT2, patch_size=(2, 2, 2), patching="space_to_depth"),
            dict(MAGVIT2, patch_size=4, resample_shortcuts=True, norm_scope="position", num_groups=1)],
        "VQGANEncoder": [dict(VQGAN)],
    },
    "decoder": {
        "MAGVIT2Decoder": [
            dict(MAGVIT2), dict(MAGVIT2, norm_scope="clip", adaptive_norm="pooled", kept_frame="first"),
            dict(MAGVIT2, padding="replicate"), dict(MAGVIT2, temporal_kernel=1, temporal_downsample=(False,)),
            dict(MAGVIT2, patch_size=(2, 2, 2), patching="space_to_depth"),
            dict(MAGVIT2, patch_size=4, resample_shortcuts=True, norm_scope="position", num_groups=1)],
        "VQGANDecoder": [dict(VQGAN)],
    },
    "quantizer": {
        "BSQ": [dict(bits=5), dict(bits=6, entropy_groups=1), dict(bits=6, entropy_groups=2, rotation_trick=True)],
        "FSQ": [dict(levels=[3, 4, 5]), dict(levels=[8, 5], bound="ifsq"), dict(levels=[3, 3], rotation_trick=True)],
        "Grouped": [dict(quantizers=[LFQ, LFQ]), dict(quantizers=[VQ, dict(VQ, dim=3, update="ema")]),
                    dict(quantizers=[dict(type="Residual", quantizers=BITS), LFQ])],
        "IBQ": [dict(codebook_size=8, dim=4), dict(codebook_size=16, dim=3, temperature=1.0)],
        "Identity": [dict(dim=4)],
        "KL": [dict(dim=4)],
        "LFQ": [dict(bits=5), dict(bits=18), dict(bits=3, num_codebooks=3), dict(bits=4, scale=1 / 3),
                dict(bits=4, bit_order="lsb_first", sign_of_zero=1), dict(bits=62, entropy_groups=31),
                dict(bits=4, inv_temperature=1.0, rotation_trick=True)],
        "Residual": [dict(quantizers=BITS), dict(quantizers=[LFQ, LFQ], scales=[1.0, 0.5], rotation_trick=True),
                     dict(quantizers=[VQ, VQ]), dict(quantizers=BITS, quantize_dropout=0.5),
                     dict(quantizers=[dict(VQ, update="ema", kmeans_iters=3), dict(VQ, update="ema")]),
                     dict(quantizers=[dict(type="FSQ", levels=[5, 5])] * 2, scales=[1.0, 0.25])],
        "VQ": [dict(codebook_size=8, dim=4), dict(codebook_size=8, dim=4, normalize=True),
               dict(codebook_size=8, dim=4, rotation_trick=True), dict(codebook_size=8, dim=4, kmeans_iters=3),
               dict(codebook_size=8, dim=4, revive_below=0.5), dict(codebook_size=8, dim=4, update="ema", decay=0.8),
               dict(codebook_size=8, dim=4, update="ema", decay=0.8, normalize=True),
               dict(codebook_size=8, dim=4, update="ema", decay=0.8, kmeans_iters=3, revive_below=0.5)],
    },
    "discriminator": {
        "PatchGANDiscriminator": [dict(filters=4, num_layers=2), dict(filters=4, num_layers=2, temporal_kernel=3)],
        "StyleGANDiscriminator": [
            dict(filters=4, channel_multipliers=(2, 4), size=(5, 16, 16)),
            dict(filters=4, channel_multipliers=(2,), size=(1, 16, 16), temporal_kernel=1, blur_padding="same")],
    },
    "loss": {
        "AdaptiveWeight": [dict()],
        "Hinge": [dict()],
        "L1": [dict()],
        "L2": [dict()],
        "LPIPS": [dict(net="alex"), dict(net="vgg")],
        "LogitDistance": [dict(backbone="tf_efficientnet_lite0", weights="weights/efficientnet_lite0", size=64)],
        "NonSaturating": [dict(), dict(per_sample=True)],
    },
    "metric": {
        "Codebook": [dict(codebook_size=8), dict(codebook_size=8, num_codebooks=3), dict(codebook_size=8, fps=12.5)],
        "InceptionDistances": [dict()],
        "LPIPS": [dict(net="alex"), dict(net="vgg")],
        "MSSSIM": [dict()],
        "PSNR": [dict()],
        "RFID": [dict()],
        "RFVD": [dict()],
        "SSIM": [dict()],
        "VideoDistances": [dict()],
    },
    "dataset": {
        "ImageShards": [dict(path=str(TARS / "shard-*.tar"), size=8, train=train) for train in (True, False)],
        "Images": [dict(size=32), dict(size=32, train=False)],
        "InMemoryClips": [dict(CLIPS), dict(CLIPS, train=False, clips_per_video=2)],
        "PhotoClips": [dict(CLIPS, path=str(TARS / "photos"), train=train) for train in (True, False)],
        "SyntheticClips": [dict(CLIPS, num_clips=9), dict(num_frames=1, size=(16, 24), seed=1)],
        "VideoShards": [dict(CLIPS, path=str(TARS / "clips.tar"), train=train) for train in (True, False)],
        "VideoClips": [dict(CLIPS, channel_shuffle=0.5), dict(CLIPS, fps=10.0, train=False)],
    },
}
# Networks in float32, whose features differ in the last digits from batch to batch, need a tolerance.
OPTIONS = {"LPIPS": dict(size=(1, 32, 32)), "LogitDistance": dict(size=(1, 32, 32)),
           "InceptionDistances": dict(size=(1, 32, 32), tolerance=1e-3), "MSSSIM": dict(size=(1, 161, 161)),
           "RFID": dict(size=(1, 32, 32), tolerance=1e-3), "RFVD": dict(size=(10, 32, 32), tolerance=1e-3),
           "VideoDistances": dict(size=(10, 32, 32), tolerance=1e-3)}
SLOW = {"RFID", "RFVD", "InceptionDistances", "VideoDistances"}  # networks of published size


def registered() -> list[tuple[Registry, str]]:
    """The toolkit's own components; a test session may have registered others."""
    names = []
    for registry in ALL:
        if registry in (BASELINES, CHECKPOINTS):  # tests/baselines, tests/interop
            continue
        registry.import_from_location()
        names += [(registry, name) for name, component in sorted(registry.module_dict.items())
                  if component.__module__.startswith("toolkit.")]
    return names


def variants() -> list[Any]:
    return [pytest.param(registry, dict(arguments, type=name), id=f"{name}-{number}",
                         marks=[pytest.mark.slow] if name in SLOW else [])
            for registry, name in registered()
            for number, arguments in enumerate(TINY[registry.name].get(name, []))]


@pytest.mark.parametrize(("registry", "name"), registered(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_component_is_in_the_table(registry, name):
    assert TINY[registry.name].get(name), (
        f"{registry.name} {name!r} is registered and not checked: add '{name}': [dict(...)] with arguments that make "
        f"it small to TINY[{registry.name!r}] in tests/testing/test_every_component.py.")


def test_the_table_has_no_component_that_was_removed():
    names = {(registry.name, name) for registry, name in registered()}
    assert {(kind, name) for kind, components in TINY.items() for name in components} <= names


@pytest.mark.parametrize(("registry", "config"), variants())
def test_component_meets_its_contract(registry, config):
    check(build_component(registry, config), **OPTIONS.get(config["type"], {}))
