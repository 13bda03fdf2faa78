"""A plugin of each kind, two files and no edit of the toolkit: installed, listed, checked, used."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image
from plugins.installed import install, run_with

SOURCES = Path(__file__).parents[1] / "plugins_of_tests"
CHECKS = {
    "OneDimensionalEncoder": "check_encoder(ENCODERS.build(dict(type='@')), sizes=[(1, 16, 16), (1, 7, 16)])",
    "OneDimensionalDecoder": "check_decoder(DECODERS.build(dict(type='@')), grids=[(1, 1, 5)])",
    "FrameViT": "check_encoder(ENCODERS.build(dict(type='@')), sizes=[(1, 16, 16), (2, 9, 16), (3, 16, 16)])",
    "TernaryDigits": "check_quantizer(QUANTIZERS.build(dict(type='@')))",
    "ChannelWeights": "check_loss(LOSSES.build(dict(type='@')))",
    "Saturation": "check_metric(METRICS.build(dict(type='@')))",
    "Gradients": "check_dataset(DATASETS.build(dict(type='@')))",
}
ONE_DIMENSIONAL = dict(encoder=dict(type="OneDimensionalEncoder"), quantizer=dict(type="TernaryDigits", dim=4),
                       decoder=dict(type="OneDimensionalDecoder"))
DECODER = dict(type="MAGVIT2Decoder", filters=8, channel_multipliers=(1, 1, 1), num_res_blocks=1,
               temporal_downsample=(False, False), temporal_kernel=1, num_groups=4)
FRAME_VIT = dict(encoder=dict(type="FrameViT"), quantizer=dict(type="LFQ", bits=4), decoder=DECODER)
CHECK = """
from toolkit import *
from toolkit.testing import *

if __name__ == "__main__":
    for name, code in {checks!r}.items():
        exec(code.replace("@", name))
"""
ROUND_TRIPS = """
import tempfile
import torch
from toolkit import build_tokenizer, load_tokenizer

for config, size, grid, refusal in {cases!r}:
    tokenizer = build_tokenizer(config).eval()
    assert tokenizer.grid(size) == grid, tokenizer.grid(size)
    pixels = torch.rand(2, 3, *size) * 2 - 1
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        loaded = load_tokenizer(folder)
    assert loaded.config == tokenizer.config
    indices, whole = tokenizer.tokenize(pixels, return_size=True)
    assert indices.shape == (2, *grid, tokenizer.num_codebooks) and torch.equal(loaded.tokenize(pixels), indices)
    reconstruction = loaded.detokenize(indices, whole)
    assert whole == size and reconstruction.shape == pixels.shape
    with torch.no_grad():
        torch.testing.assert_close(reconstruction, tokenizer(pixels).reconstruction)
    try:
        tokenizer.tokenize(torch.zeros(1, 3, 1, 32, 32))
        raise AssertionError("another size was accepted")
    except ValueError as error:
        assert refusal in str(error), error
    if tokenizer.why_not_streamed is None:
        chunks = list(tokenizer.tokenize_stream(pixels.split(1, dim=2)))
        assert torch.equal(torch.cat(chunks, dim=1), indices)
"""
CASES = [(ONE_DIMENSIONAL, (1, 16, 16), (1, 1, 5), "takes images up to 16 x 16"),
         (ONE_DIMENSIONAL, (1, 12, 15), (1, 1, 5), "takes images up to 16 x 16"),
         (FRAME_VIT, (1, 16, 16), (1, 4, 4), "takes frames of 16 x 16 or smaller"),
         (FRAME_VIT, (3, 14, 16), (3, 4, 4), "takes frames of 16 x 16 or smaller")]
CONFIG = f"""\"\"\"One-dimensional tokens of gradients, all by plugins.\"\"\"

_base_ = ["{Path(__file__).parents[2]}/configs/_base_/runtime/demo.py"]
tokenizer = {ONE_DIMENSIONAL!r}
objective = dict(losses=dict(reconstruction=dict(loss=dict(type="ChannelWeights"), weight=1.0)))
data = dict(train=dict(dataset=dict(type="Gradients"), batch_size=4, num_workers=0),
            val=dict(dataset=dict(type="Gradients", length=4), batch_size=2))
metrics = [dict(type="PSNR"), dict(type="Saturation")]
training = dict(max_steps=2, validate_every=2)
"""
SUITE = """
from toolkit.evaluation.protocol import CODEBOOK, PSNR, Protocol, Suite

SUITE = Suite(Protocol("noise", "all", 4, 16, (PSNR, CODEBOOK)), path="images", shown=())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folders = sorted(path.parent for path in SOURCES.glob("*/pyproject.toml"))
    assert all(len([path for path in folder.iterdir() if path.suffix in (".py", ".toml")]) == 2 for folder in folders)
    return install(folders, tmp_path_factory.mktemp("site"))


def test_every_kind_is_listed_and_usable(site):
    done = run_with(site, "-m", "toolkit", "--check", COLUMNS="200")
    assert done.returncode == 0, done.stdout + done.stderr
    states = {words[1]: words[4] for line in done.stdout.splitlines() if (words := line.split())[1:2] and
              words[1] in CHECKS}
    assert states == dict.fromkeys(CHECKS, "ok")


@pytest.mark.parametrize("code", [CHECK.format(checks=CHECKS), ROUND_TRIPS.format(cases=CASES)],
                         ids=["checks", "round_trips"])
def test_each_passes_the_check_of_its_kind_and_tokenizers_are_saved_loaded_and_decoded(site, tmp_path, code):
    (tmp_path / "script.py").write_text(code)
    done = run_with(site, tmp_path / "script.py")
    assert done.returncode == 0, done.stderr[-3000:]


def test_one_dimensional_tokenizer_is_trained_and_benchmarked(site, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    done = run_with(site, "tools/train.py", tmp_path / "config.py", "--work-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "tokenizer" / "config.json").read_text())["encoder"]["num_latents"] == 5
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("saturation" in key for line in lines for key in line)
    (tmp_path / "suite.py").write_text(SUITE)
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.effect_noise((16, 16), 50).convert("RGB").save(tmp_path / "images" / f"{number}.png")
    done = run_with(site, "benchmarks/run.py", "--suite", tmp_path / "suite.py", "--data", tmp_path / "images",
                    "--tokenizer", tmp_path / "run" / "tokenizer", "--output", tmp_path / "results")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    row = json.loads((tmp_path / "results" / "run.json").read_text())
    assert row["scores"]["bits_per_pixel"] == pytest.approx(5 * 4 * math.log2(3) / 16**2)
