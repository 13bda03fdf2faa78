"""Whole runs at tiny size: images with clips, and VQGAN's adaptive weight."""

import math

import pytest
import torch
from safetensors.torch import load_file
from training.tiny import (
    ADVERSARIAL,
    DISCRIMINATOR,
    GAN_TERMS,
    IMAGE_DISCRIMINATOR,
    assert_equal,
    build,
    copy_checkpoint,
    metric_lines,
    patchgan_config,
    tiny_config,
    train,
    train_lines,
    write_images,
)

from toolkit.config import ConfigError


def mixture_config(clips, images, **changes):
    still = dict(dataset=dict(type="Images", path=str(images), size=16), batch_size=2)
    config = tiny_config(clips, training__betas=(0.0, 0.99), **changes)
    moving = {split: config["data"][split] for split in ("train", "val")}
    config["data"] = {"train": [moving["train"], {**still, "weight": 1.0}],
                      "val": [moving["val"], {**still, "dataset": {**still["dataset"], "train": False}}]}
    config["discriminator"] = dict(image=dict(IMAGE_DISCRIMINATOR), video=dict(DISCRIMINATOR))
    config["objective"] = dict(losses=dict(pixels=dict(loss=dict(type="L1"), weight=1.0)),
                               adversarial={**ADVERSARIAL, "r1": dict(weight=0.5, every=1)})
    return config


def test_images_and_clips_train_together_each_with_its_discriminator(clips, tmp_path):
    config = mixture_config(clips, write_images(tmp_path / "images"), training__max_steps=8,
                            training__validate_every=1, training__gradient_accumulation_steps=2)
    trainer = build(config, tmp_path / "run")
    before = {modality: [parameter.detach().clone() for parameter in trained.network.parameters()]
              for modality, trained in trainer.discriminators.items()}
    assert trainer.run()
    terms = {"pixels", "commitment", "per_sample_entropy", "codebook_entropy", "total"} | GAN_TERMS
    for modality in ("image", "video"):
        lines = train_lines(tmp_path / "run", modality)
        assert lines and all(terms <= set(line) for line in lines)
        after = trainer.discriminators[modality].network.parameters()
        assert all(not torch.equal(*pair) for pair in zip(before[modality], after, strict=True))
        assert {line["step"] for line in metric_lines(tmp_path / "run")
                if line["split"] == "val" and line["modality"] == modality} == set(range(1, 9))
    steps = [line["step"] for modality in ("image", "video") for line in train_lines(tmp_path / "run", modality)]
    assert sorted(steps) == list(range(1, 9))
    # an image is a single picture, a clip a video too
    samples = {path.name for path in (tmp_path / "run" / "samples").glob("*_step_8.*")}
    assert samples == {"image_step_8.png", "video_step_8.png", "video_step_8.mp4"}


def test_a_mixture_resumes_as_if_undisturbed(clips, tmp_path):
    config = mixture_config(clips, write_images(tmp_path / "images"), training__checkpoints=dict(every=2, keep=None))
    train(config, tmp_path / "one")
    train(config, copy_checkpoint(tmp_path / "one", tmp_path / "other", step=2), resume=True)
    assert_equal(*(load_file(tmp_path / name / "tokenizer" / "model.safetensors") for name in ("one", "other")))


def test_a_mixture_needs_a_discriminator_for_each_modality(clips, tmp_path):
    config = mixture_config(clips, write_images(tmp_path / "images"))
    del config["discriminator"]["image"]
    with pytest.raises(ConfigError, match="discriminator needs an entry for image"):
        build(config, tmp_path / "run")


@pytest.mark.parametrize("temporal_kernel", [1, 3])
def test_a_patchgan_and_the_tokenizer_learn_and_the_total_has_the_adaptive_weight(clips, tmp_path, temporal_kernel):
    trainer = build(patchgan_config(clips, temporal_kernel=temporal_kernel), tmp_path)
    network = trainer.discriminators["video"].network
    # all but the logits' bias, to which the hinge is flat until a logit leaves the margins
    learning = [parameter for parameter in network.parameters() if parameter.shape != (1,)]
    before = [parameter.detach().clone() for parameter in learning]
    assert trainer.run()
    lines = train_lines(tmp_path)
    for line in lines:
        assert line["adaptive_weight"] > 0 and math.isfinite(line["discriminator"])
        quantizer = 0.25 * line["commitment"] + 0.1 * line["per_sample_entropy"] - 0.1 * line["codebook_entropy"]
        adversarial = 0.8 * line["adaptive_weight"] * line["adversarial"]
        assert line["total"] == pytest.approx(5 * line["reconstruction"] + quantizer + adversarial, rel=1e-4, abs=1e-5)
    assert len(lines) == 4
    assert all(not torch.equal(*pair) for pair in zip(before, learning, strict=True))
    # each step: the generator's reconstructions, then real pixels, then reconstructions
    assert network.main[3].num_batches_tracked == 4 * 3


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_logged_weight_is_the_ratio_at_the_decoders_last_convolution(clips, tmp_path, precision):
    config = patchgan_config(clips, training__max_steps=1, training__mixed_precision=precision)
    train(config, tmp_path / "run")
    line, = train_lines(tmp_path / "run")
    trainer = build(config, tmp_path / "by_hand")
    pixels, tokenizer = next(trainer.train_loader).pixels, trainer.tokenizer.network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        output, weight = tokenizer(pixels).reconstruction, tokenizer.decoder.conv_out.weight
        logits = trainer.discriminators["video"].network(output)
    assert (output.dtype == logits.dtype == torch.bfloat16) == (precision == "bf16")
    pull, = torch.autograd.grad(5 * (output.float() - pixels).square().mean(), weight, retain_graph=True)
    push, = torch.autograd.grad(-logits.float().mean(), weight)
    # in bf16 a pixel's gradient is rounded before its weight, here after
    rounding = 1e-4 if precision == "no" else 2e-3
    assert line["adaptive_weight"] == pytest.approx((pull.norm() / (push.norm() + 1e-4)).item(), rel=rounding)


def test_a_frozen_decoder_is_refused_before_training(clips, tmp_path):
    with pytest.raises(ConfigError, match=r"adaptive needs the gradient at the .* last layer, got a frozen layer"):
        build(patchgan_config(clips, training__trainable=["encoder"]), tmp_path)
