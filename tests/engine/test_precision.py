"""Token ids and validation scores are float32's, whatever the precision of training."""

import copy

import numpy as np
import pytest
import synthetic_clip
import torch
from accelerate.state import AcceleratorState
from engine.runs import lines_without_clocks
from mmengine.config import Config
from pooled import scores_by_scikit_image
from testing.test_every_component import TINY
from training.tiny import tiny_config

from toolkit import load_tokenizer
from toolkit.build import build_component, build_trainer
from toolkit.data import VideoClips
from toolkit.registry import QUANTIZERS
from toolkit.tokens import extract_tokens, read_tokens, tokenizer_hash

pytestmark = pytest.mark.engine
CASES = [(kind, arguments) for kind, choices in TINY["quantizer"].items() for arguments in choices]


def train(clips, work_dir, precision, **changes):
    """Four steps, with validations after the second and the last."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps its first precision
    config = tiny_config(clips, training__mixed_precision=precision, training__validate_every=2, **changes)
    build_trainer(Config(config), work_dir=work_dir).run()
    return work_dir


def lines_of(work_dir, split):
    return [line for line in lines_without_clocks(work_dir) if line["split"] == split]


@pytest.mark.parametrize(("kind", "arguments"), CASES, ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_codes_and_ids_of_latents_do_not_depend_on_autocast(kind, arguments, training):
    quantizer = build_component(QUANTIZERS, dict(type=kind, **copy.deepcopy(arguments))).train(training)
    latents = torch.randn(64, quantizer.dim, 2, 4, 4)  # many, since rounding decides few of them

    def quantized(dtype):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            output = copy.deepcopy(quantizer)(latents)
            stored = output.indices is not None and not training
            return output, quantizer.codes_from_indices(output.indices, (2, 4, 4)) if stored else None

    expected, codes = quantized(torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        output, looked_up = quantized(dtype)
        assert output.codes.dtype == torch.float32 and torch.equal(output.codes, expected.codes)
        assert output.losses.keys() == expected.losses.keys()
        assert all(torch.equal(output.losses[name], loss) for name, loss in expected.losses.items())
        if expected.indices is not None:
            assert torch.equal(output.indices, expected.indices)
        if codes is not None:
            assert looked_up.dtype == torch.float32 and torch.equal(looked_up, codes)


@pytest.fixture(scope="module")
def bf16_run(clips, tmp_path_factory):
    """The folder of a run in bf16."""
    return train(clips, tmp_path_factory.mktemp("bf16"), "bf16")


def independent_scores(tokenizer, clips):
    """PSNR and SSIM by scikit-image, and codebook use by numpy, clip by clip."""
    dataset = VideoClips(path=str(clips), num_frames=5, size=16, train=False)
    pixels = torch.stack([dataset[number]["pixels"] for number in range(len(dataset))])
    with torch.no_grad():
        outputs = [tokenizer(clip) for clip in pixels.split(1)]
    counts = np.unique(torch.cat([output.indices for output in outputs]).numpy(), return_counts=True)[1]
    share = counts / counts.sum()
    return {**scores_by_scikit_image(pixels, torch.cat([output.reconstruction for output in outputs])),
            "codebook_usage": len(counts) / tokenizer.codebook_size,
            "codebook_perplexity": np.exp(-(share * np.log(share)).sum())}


def test_scores_of_a_run_in_bf16_are_those_of_its_exported_tokenizer_in_float32(bf16_run, clips):
    last = lines_of(bf16_run, "val")[-1]
    exported = load_tokenizer(bf16_run / "tokenizer")
    assert {tensor.dtype for tensor in exported.state_dict().values()} == {torch.float32}
    assert last["step"] == 4
    for name, expected in independent_scores(exported, clips).items():
        assert last[name] == pytest.approx(expected, rel=1e-5), name
    with torch.autocast("cpu", dtype=torch.bfloat16):  # and bf16's are others, or this would show nothing
        assert last["psnr"] != pytest.approx(independent_scores(exported, clips)["psnr"], rel=1e-5)


def test_with_the_same_weights_training_in_bf16_and_in_float32_have_the_same_scores_and_files(clips, tmp_path):
    plain, half = (train(clips, tmp_path / precision, precision, training__learning_rate=0.0)
                   for precision in ("no", "bf16"))
    assert len(lines_of(plain, "val")) == 2 and lines_of(half, "val") == lines_of(plain, "val")
    assert lines_of(half, "train") != lines_of(plain, "train")  # it did compute otherwise
    one, other = (run / "tokenizer" / "model.safetensors" for run in (plain, half))
    assert one.read_bytes() == other.read_bytes()


@torch.no_grad()
def test_tokens_of_a_tokenizer_trained_in_bf16_are_those_of_plain_float64_convolutions(bf16_run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    from plain import PlainTokenizer

    directory, clip = bf16_run / "tokenizer", synthetic_clip.frames(1, num_frames=9, height=32, width=48)
    synthetic_clip.write_lossless(tmp_path / "clip.mkv", clip)
    extract_tokens(load_tokenizer(directory), tmp_path / "clip.mkv", tokenizer_hash=tokenizer_hash(directory),
                   output=tmp_path / "tokens")
    (_, indices, _), = read_tokens(tmp_path / "tokens" / "tokens-000000.tar")
    latents = PlainTokenizer(load_tokenizer(directory)).double().encode(synthetic_clip.pixels_of(clip).double())
    latents = latents[0].movedim(0, -1).numpy()  # (t, h, w, 6)
    expected = (latents > 0) @ 2 ** np.arange(5, -1, -1)
    decided = np.abs(latents).min(-1) > 1e-5
    assert decided.mean() > 0.9 and np.array_equal(indices[..., 0][decided], expected[decided])
