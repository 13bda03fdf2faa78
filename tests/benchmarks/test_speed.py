"""The plain versions compute what the toolkit does, and the table is made from measurements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = dict(filters=8, side=32)


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed_cases

    return speed_cases


@pytest.mark.parametrize("name", ["image", "video", "encode", "decode"])
def test_plain_networks_give_the_toolkits_numbers(cases, name):
    ours, plain = (cases.cases()[name](version, **SIZE)() for version in ("toolkit", "plain"))
    assert ours["std"] > 0
    assert ours == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("frames", [1, 5])
@torch.no_grad()
def test_plain_tokenizer_gives_the_toolkits_latents_and_pixels(cases, frames):
    from plain import PlainTokenizer

    tokenizer = cases._tokenizer("toolkit", 8).eval()
    pixels = cases.clip(frames, 32)
    reconstruction, latents, codes = PlainTokenizer(tokenizer)(pixels)
    ours = tokenizer(pixels)
    torch.testing.assert_close(latents, ours.latents, rtol=1e-4, atol=1e-5)
    assert torch.equal(codes.sign(), ours.codes.sign())
    torch.testing.assert_close(reconstruction, ours.reconstruction, rtol=1e-4, atol=1e-5)


def test_plain_discriminator_gives_the_toolkits_logits(cases):
    from plain import discriminate

    from toolkit.networks import StyleGANDiscriminator

    network = StyleGANDiscriminator(filters=8, channel_multipliers=(2, 4), size=(5, 16, 16))
    pixels = torch.randn(2, 3, 5, 16, 16)
    torch.testing.assert_close(discriminate(network, pixels), network(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_every_version_of_a_step_has_the_same_losses(cases):
    ours, checkpointed, plain = (cases.cases()["step"](version, **SIZE)()
                                 for version in ("toolkit", "checkpointed", "plain"))
    assert ours == pytest.approx(plain, rel=1e-4)
    assert checkpointed == pytest.approx(ours, rel=1e-5)


@pytest.mark.slow
def test_the_command_prints_a_row_for_each_case_and_version(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "image", "stream_100", "clip_vs_gop", "gemm_share",
               "--filters", "8", "--side", "32", "--minutes", "0.2", "--output", str(tmp_path / "table.md")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["| image", "| stream_100", "| clip_vs_gop", "| gemm_share"]
    for row in rows[2:]:
        assert float(row[1]) >= 0 and row[3].endswith("x") and float(row[5]) > 0
    assert (tmp_path / "table.md").read_text() == printed


def test_an_unknown_case_is_one_clear_error():
    done = subprocess.run([sys.executable, str(BENCHMARKS / "speed.py"), "entropie"], check=False,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no such case: entropie; there are entropy" in done.stderr


def test_widths_compares_times_and_stored_activations(cases, monkeypatch):
    import speed_widths

    monkeypatch.setattr(speed_widths, "SIDES", {8: 16})
    evaluated, trained = (speed_widths.row(8, 5, train=train, rounds=1) for train in (False, True))
    assert len(evaluated) == len(trained) == len(speed_widths.HEADER)
    assert float(evaluated[3]) > 0 and float(trained[3]) > 0
    assert float(trained[6]) <= 0.5  # of the plain version's activations


def test_made_clips_counts_clips_of_both_datasets(cases, monkeypatch):
    import speed_made_clips

    monkeypatch.setattr(speed_made_clips, "SIZES", ((2, 16),))
    monkeypatch.setattr(speed_made_clips, "NUM_CLIPS", 2)
    synthetic, photos = speed_made_clips.table(1)
    assert [synthetic[:2], photos[:2]] == [["SyntheticClips", "2x16x16"], ["PhotoClips", "2x16x16"]]
    for row in (synthetic, photos):  # 512 pixels: both columns are the same time
        assert float(row[2]) * float(row[3]) * 512 * 1e-9 == pytest.approx(1, rel=0.05)
