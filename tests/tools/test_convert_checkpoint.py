"""tools/convert_checkpoint.py as its users run it."""

import pytest
import torch
from interop.foreign import CASES, Foreign, RunsOnLoading, garbage, lightning, native, patchgan, save_torch
from tools.commands import error_of, run, run_here, succeed

from toolkit import load_tokenizer

FILES = {"config.json", "model.safetensors"}


@torch.no_grad()
def latents_agree(folder, case: Foreign) -> None:
    latents = load_tokenizer(folder)(case.pixels).latents
    torch.testing.assert_close(latents, case.latents, rtol=0, atol=1e-4 * case.latents.abs().max().item())


def test_command_in_its_own_process_converts_and_prints_a_summary(tmp_path):
    case = Foreign("open_magvit2_image_tiny")
    done = succeed("convert_checkpoint", native(case, tmp_path), tmp_path / "out")
    latents_agree(tmp_path / "out", case)
    assert done.stdout.startswith("open_magvit2, averaged weights: MAGVIT2Encoder, LFQ, MAGVIT2Decoder; "
                                  "stride 1x4x4, 1024 codes")
    assert f"discriminator: PatchGANDiscriminator -> {tmp_path / 'out' / 'discriminator'}" in done.stdout
    assert "skipped, optimizers and other state: " in done.stdout and "optimizer_states" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", CASES)
def test_checkpoint_of_every_system_becomes_a_tokenizer_directory(tmp_path, name, capsys):
    case = Foreign(name)
    assert run_here("convert_checkpoint", native(case, tmp_path), tmp_path / "out") is None
    latents_agree(tmp_path / "out", case)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"discriminator"}
    assert {path.name for path in (tmp_path / "out" / "discriminator").iterdir()} == FILES
    assert capsys.readouterr().out.startswith(case.layout)


def test_no_ema_takes_the_raw_weights(tmp_path, capsys):
    case = Foreign("open_magvit2_video_tiny")
    content = lightning(case.tensors, garbage(case.tensors), patchgan(video=True))
    path = save_torch(content, tmp_path / "last.ckpt")
    assert run_here("convert_checkpoint", path, tmp_path / "out", "--no-ema") is None
    latents_agree(tmp_path / "out", case)
    assert "averaged" not in capsys.readouterr().out


def test_no_discriminator_skips_it(tmp_path, capsys):
    case = Foreign("o2_video_tiny")
    assert run_here("convert_checkpoint", native(case, tmp_path), tmp_path / "out", "--no-discriminator") is None
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert "skipped, discriminator: " in capsys.readouterr().out


def whole(folder):
    return native(Foreign("o2_image_tiny"), folder)


def evil(folder):
    return save_torch(Foreign("o2_image_tiny").tensors | {"x": RunsOnLoading(folder / "marker")}, folder / "a.bin")


def incomplete(folder):
    tensors = dict(Foreign("o2_image_tiny").tensors)
    del tensors["decoder.conv_last.bias"]
    return save_torch(tensors, folder / "a.bin")


BAD = {"a file that would run code": (evil, (), "refused"),
       "a missing tensor": (incomplete, (), "decoder.conv_last.bias"),
       "no file": (lambda folder: folder / "no.ckpt", (), "no checkpoint at"),
       "an unknown layout": (whole, ("--layout", "vqgan"), "'vqgan'"),
       "another layout": (whole, ("--layout", "llamagen"), "llamagen")}


@pytest.mark.parametrize("kind", BAD)
def test_refusal_is_one_line_with_an_exit_code_and_nothing_is_written(tmp_path, kind):
    make, arguments, words = BAD[kind]
    assert words in error_of("convert_checkpoint", make(tmp_path), tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists() and not (tmp_path / "marker").exists()


def test_refusal_in_its_own_process_is_one_line_on_stderr(tmp_path):
    done = run("convert_checkpoint", evil(tmp_path), tmp_path / "out")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "marker").exists()


def test_out_that_is_a_file_is_a_one_line_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    error_of("convert_checkpoint", whole(tmp_path), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
