"""Converted checkpoints give the numbers of the code bases that made them (tests/golden/README.md)."""

from __future__ import annotations

import pytest
import torch
from interop.foreign import (
    CASES,
    Foreign,
    close,
    foreign,
    garbage,
    lightning,
    llamagen,
    native,
    o2_trainer,
    patchgan,
    patchgan_layers,
    prefixed,
    save_npz,
    save_safetensors,
    save_torch,
    taming_names,
)

from toolkit import load_tokenizer
from toolkit.build import load_discriminator
from toolkit.interop import CheckpointError, convert_checkpoint, convert_tensors, load_checkpoint
from toolkit.interop.vqgan import Taming
from toolkit.registry import CHECKPOINTS
from toolkit.tokenizer import Tokenizer

TOLERANCE = 1e-4  # relative, in float32 and between two orders of summation


@torch.no_grad()
def gives_its_numbers(tokenizer: Tokenizer, case: Foreign) -> None:
    output = tokenizer(case.pixels)
    close(output.latents, case.latents)
    close(output.reconstruction, case.reconstruction)
    decided = case.decided()
    assert decided.float().mean() > 0.9
    assert torch.equal(output.indices[decided], case.indices[decided])
    close(tokenizer.detokenize(case.indices, tuple(case.pixels.shape[2:])), case.reconstruction)


@pytest.mark.parametrize("name", CASES)
def test_checkpoint_as_published_is_recognised_and_gives_the_numbers_of_its_system(tmp_path, name):
    case = foreign(name)
    conversion = convert_checkpoint(native(case, tmp_path))
    assert conversion.layout == case.layout
    assert conversion.ema == (case.layout in ("open_magvit2", "llamagen"))
    conversion.save(tmp_path / "out")
    gives_its_numbers(load_tokenizer(tmp_path / "out"), case)
    gives_its_numbers(load_checkpoint(native(case, tmp_path), case.layout), case)  # named, and loaded directly


@pytest.mark.parametrize("name", CASES)
def test_safetensors_file_of_the_bare_state_dict_gives_the_numbers_of_its_system(tmp_path, name):
    case = foreign(name)
    conversion = convert_checkpoint(save_safetensors(case.tensors, tmp_path / "model.safetensors"))
    assert (conversion.layout, conversion.ema, conversion.discriminator) == (case.layout, False, None)
    gives_its_numbers(conversion.tokenizer, case)


@pytest.mark.parametrize("name", ["o2_video_tiny", "o2_image_tiny"])
@pytest.mark.parametrize(("file", "wrap"), [
    ("pytorch_model.bin", lambda tensors: tensors),
    ("iter_7_ema.ckpt", lambda tensors: prefixed("module.", tensors)),
    ("iter_7_ema.ckpt", lambda tensors: prefixed("module.", prefixed("tokenizer.", tensors))),
    ("iter_7.ckpt", lambda tensors: prefixed("tokenizer.", prefixed("_orig_mod.", tensors))),
    ("iter_7.pth", lambda tensors: {"state_dict": tensors, "step": torch.tensor(7)})],
    ids=["bare", "module", "module.tokenizer", "compiled", "state_dict"])
def test_o2_files_of_every_wrapping_give_its_numbers(tmp_path, name, file, wrap):
    case = foreign(name)
    gives_its_numbers(load_checkpoint(save_torch(wrap(case.tensors), tmp_path / file)), case)


@pytest.mark.parametrize("has_average", [True, False])
@pytest.mark.parametrize("name", ["open_magvit2_video_tiny", "open_magvit2_image_tiny", "llamagen_vq_tiny"])
def test_raw_weights_convert_on_request_and_where_there_are_no_averaged_ones(tmp_path, name, has_average):
    case = foreign(name)
    wrap = llamagen if case.layout == "llamagen" else lightning
    average = garbage(case.tensors) if has_average else None
    path = save_torch(wrap(case.tensors, average, patchgan()), tmp_path / "raw.ckpt")
    conversion = convert_checkpoint(path, ema=not has_average)
    assert not conversion.ema and ("EMA" in conversion.skipped) == has_average
    gives_its_numbers(conversion.tokenizer, case)


def test_llamagen_file_with_averaged_weights_alone_converts():
    conversion = convert_tensors({"ema": foreign("llamagen_vq_tiny").tensors})
    assert conversion.ema
    gives_its_numbers(conversion.tokenizer, foreign("llamagen_vq_tiny"))


def test_raw_weights_convert_on_request_where_the_averaged_copy_does_not_match():
    case = foreign("open_magvit2_image_tiny")
    content = lightning(case.tensors, garbage(case.tensors), patchgan())
    content["state_dict"]["model_ema.encoderunknownweight"] = torch.ones(3)
    gives_its_numbers(convert_tensors(content, ema=False).tokenizer, case)
    with pytest.raises(CheckpointError, match=r"in the file: model_ema\.encoderunknownweight; .*\(--no-ema\)"):
        convert_tensors(content)


@torch.no_grad()
@pytest.mark.parametrize("name", ["o2_video_tiny", "o2_image_tiny", "praxis_video_tiny"])
def test_converted_discriminator_gives_the_logits_of_its_system(tmp_path, name):
    case = foreign(name)
    convert_checkpoint(native(case, tmp_path)).save(tmp_path / "out")
    discriminator = load_discriminator(tmp_path / "out" / "discriminator")
    logits, expected = discriminator(case.pixels), case.arrays["discriminator_logits_real"]
    close(logits, expected)
    torch.testing.assert_close(logits, expected, rtol=TOLERANCE, atol=1e-6)
    assert tuple(discriminator.size) == tuple(case.pixels.shape[2:])


def test_praxis_losses_are_those_of_praxis(tmp_path):
    case = foreign("praxis_video_tiny")
    tokenizer = load_checkpoint(native(case, tmp_path)).train()
    losses = tokenizer(case.pixels).losses
    expected = case.info["losses"]
    assert 0.25 * losses["commitment"].item() == pytest.approx(expected["commitment_times_0_25"], rel=TOLERANCE)
    entropy = losses["per_sample_entropy"] - losses["codebook_entropy"]
    assert 0.1 * entropy.item() == pytest.approx(expected["entropy_times_0_1"], rel=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize(("name", "video"), [("open_magvit2_video_tiny", True), ("open_magvit2_image_tiny", False)])
def test_patchgan_converts_tensor_by_tensor_from_the_raw_weights(tmp_path, name, video):
    discriminator, case = patchgan(video=video), foreign(name)
    path = save_torch(lightning(case.tensors, case.tensors, discriminator), tmp_path / "a.ckpt")
    convert_checkpoint(path).save(tmp_path / "out")
    state = load_discriminator(tmp_path / "out" / "discriminator").state_dict()
    assert {key: value.reshape(discriminator[key].shape).tolist() for key, value in state.items()} == {
        key: value.tolist() for key, value in discriminator.items()}


@torch.no_grad()
def test_llamagens_patchgan_gives_the_logits_of_its_layers_in_torch(tmp_path):
    case, theirs = foreign("llamagen_vq_tiny"), patchgan_layers().eval()
    discriminator = convert_checkpoint(native(case, tmp_path)).discriminator.eval()
    theirs.load_state_dict({name.removeprefix("main."): tensor for name, tensor in patchgan().items()})
    close(discriminator(case.pixels).squeeze(2), theirs(case.pixels.squeeze(2)))


@pytest.mark.parametrize("name", CASES)
def test_half_precision_checkpoint_becomes_float32_within_half_precision(tmp_path, name):
    case = foreign(name)
    half = {key: value.half() if value.is_floating_point() else value for key, value in case.tensors.items()}
    path = tmp_path / ("half.npz" if case.layout == "praxis" else "half.bin")
    conversion = convert_checkpoint((save_npz if case.layout == "praxis" else save_torch)(half, path))
    conversion.save(tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert {tensor.dtype for tensor in tokenizer.state_dict().values()} <= {torch.float32, torch.int64}
    with torch.no_grad():
        close(tokenizer(case.pixels).latents, case.latents, tolerance=2e-2)


def test_bfloat16_discriminator_becomes_float32():
    case = foreign("o2_image_tiny")
    half = {name: tensor.bfloat16() for name, tensor in case.discriminator.items()}
    discriminator = convert_tensors(o2_trainer(case.tensors, None, half)).discriminator
    assert {tensor.dtype for tensor in discriminator.state_dict().values()} == {torch.float32}


def test_everything_skipped_is_listed_by_its_name(tmp_path):
    case = foreign("open_magvit2_image_tiny")
    skipped = convert_checkpoint(native(case, tmp_path)).skipped
    assert set(skipped["replaced by EMA"]) == set(case.tensors)
    assert set(skipped["EMA counters"]) == {"model_ema.decay", "model_ema.num_updates"}
    assert {"optimizer_states", "epoch"} <= set(skipped["optimizers and other state"])
    assert "loss.perceptual_loss.lin0.model.1.weight" in skipped["loss and perceptual networks"]
    conversion = convert_checkpoint(native(case, tmp_path), discriminator=False)
    assert conversion.discriminator is None and set(conversion.skipped["discriminator"]) == set(patchgan())


def test_discriminator_of_no_known_kind_is_listed_and_the_tokenizer_converts():
    case = foreign("llamagen_vq_tiny")
    conversion = convert_tensors(llamagen(case.tensors, None, {"blocks.0.attention.weight": torch.ones(3)}))
    assert conversion.discriminator is None
    assert conversion.skipped["a discriminator of no known kind"] == ["discriminator.blocks.0.attention.weight"]
    gives_its_numbers(conversion.tokenizer, case)


def test_converting_leaves_the_random_numbers_alone(tmp_path):
    path = native(foreign("o2_image_tiny"), tmp_path)
    before = torch.get_rng_state()
    convert_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)


@torch.no_grad()
def test_taming_names_give_the_latents_of_the_same_llamagen_network():
    case = foreign("llamagen_vq_tiny")
    content = {"state_dict": {**taming_names(case.tensors), **prefixed("loss.discriminator.", patchgan())}}
    conversion = convert_tensors(content, "taming")
    assert conversion.layout == "taming"
    tokenizer = conversion.tokenizer
    close(tokenizer(case.pixels).latents, case.latents)
    # taming quantizes by plain distance; LlamaGen's codes, of unit length here, decode to the same pixels.
    close(tokenizer.detokenize(case.indices), case.reconstruction)
    nearest = torch.cdist(case.latents.movedim(1, -1).reshape(-1, 8).double(),
                          case.tensors["quantize.embedding.weight"].double()).argmin(1)
    assert torch.equal(tokenizer.tokenize(case.pixels).flatten(), nearest)


def test_checkpoint_that_fits_two_lookups_is_refused_with_both_names(tmp_path):
    case = foreign("ibq_tiny")
    for path in (save_torch(lightning(garbage(case.tensors), case.tensors, patchgan()), tmp_path / "ibq.ckpt"),
                 save_safetensors(case.tensors, tmp_path / "model.safetensors")):
        with pytest.raises(CheckpointError, match=r"do not tell ibq from taming.*--layout ibq"):
            load_checkpoint(path)


def test_a_family_that_recognises_more_names_does_not_win_over_others_that_fit(monkeypatch):
    class Cosine(Taming):
        """Nearest row at unit length."""

        marks, quantizer, type_name = "(encoder|decoder|quant)", dict(type="VQ", normalize=True), "cosine"

    monkeypatch.setitem(CHECKPOINTS.module_dict, "cosine", Cosine)
    with pytest.raises(CheckpointError, match=r"do not tell .*taming.*cosine"):
        convert_tensors(foreign("ibq_tiny").tensors)


def test_ibq_checkpoint_gives_the_numbers_of_its_system_when_it_is_named():
    case = foreign("ibq_tiny")
    conversion = convert_tensors(lightning(garbage(case.tensors), case.tensors, patchgan()), "ibq")
    assert (conversion.layout, conversion.ema) == ("ibq", True)
    gives_its_numbers(conversion.tokenizer, case)
    as_taming = convert_tensors(case.tensors, "taming").tokenizer.tokenize(case.pixels)
    assert (as_taming != case.indices).float().mean() > 0.3
