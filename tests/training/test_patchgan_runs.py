"""VQGAN's discriminator in whole runs at tiny size: PatchGAN, hinge and the adaptive weight."""

import math

import pytest
import torch
from safetensors.torch import load_file
from training.tiny import assert_equal, build, copy_checkpoint, tiny_config, train, train_lines

from toolkit.config import ConfigError

ADVERSARIAL = dict(loss=dict(type="Hinge"), weight=0.8, adaptive=dict(type="AdaptiveWeight"), discriminator_weight=0.5)


def patchgan_config(clips, *, temporal_kernel: int = 1, **changes):
    patchgan = dict(type="PatchGANDiscriminator", filters=8, num_layers=2, temporal_kernel=temporal_kernel)
    return tiny_config(clips, discriminator=patchgan, objective__adversarial=ADVERSARIAL, **changes)


@pytest.mark.parametrize("temporal_kernel", [1, 3])
def test_both_networks_learn_and_the_total_has_the_adaptive_weight(clips, tmp_path, temporal_kernel):
    trainer = build(patchgan_config(clips, temporal_kernel=temporal_kernel), tmp_path)
    network = trainer.discriminators["video"].plain
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
    pixels, tokenizer = next(trainer.train_loader).pixels, trainer.tokenizer.plain.train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        output, weight = tokenizer(pixels).reconstruction, tokenizer.decoder.conv_out.weight
        logits = trainer.discriminators["video"].plain(output)
    assert (output.dtype == logits.dtype == torch.bfloat16) == (precision == "bf16")
    pull, = torch.autograd.grad(5 * (output.float() - pixels).square().mean(), weight, retain_graph=True)
    push, = torch.autograd.grad(-logits.float().mean(), weight)
    # in bf16 a pixel's gradient is rounded before its weight, here after
    rounding = 1e-4 if precision == "no" else 2e-3
    assert line["adaptive_weight"] == pytest.approx((pull.norm() / (push.norm() + 1e-4)).item(), rel=rounding)


def test_a_resumed_run_equals_an_undisturbed_one_with_accumulation(clips, tmp_path):
    config = patchgan_config(clips, data__train__batch_size=1, training__gradient_accumulation_steps=2,
                         training__checkpoints=dict(every=2, keep=None))
    train(config, tmp_path / "one")
    train(config, copy_checkpoint(tmp_path / "one", tmp_path / "other", step=2), resume=True)
    for name in ("tokenizer", "discriminator_video"):
        one, other = (load_file(tmp_path / run / "checkpoints" / "step_4" / f"{name}.safetensors")
                      for run in ("one", "other"))
        assert_equal(one, other)
    assert one["main.3.num_batches_tracked"] == 4 * 2 * 3


def test_activation_checkpointing_changes_nothing(clips, tmp_path):
    for on in (False, True):
        train(patchgan_config(clips, training__max_steps=2, training__activation_checkpointing=on), tmp_path / str(on))
    runs = [train_lines(tmp_path / str(on)) for on in (False, True)]
    for name in ("adaptive_weight", "adversarial", "reconstruction", "discriminator"):
        assert [line[name] for line in runs[0]] == pytest.approx([line[name] for line in runs[1]], rel=1e-4)


def test_a_frozen_decoder_is_refused_before_training(clips, tmp_path):
    with pytest.raises(ConfigError, match=r"adaptive needs the gradient at the .* last layer, got a frozen layer"):
        build(patchgan_config(clips, training__trainable=["encoder"]), tmp_path)
