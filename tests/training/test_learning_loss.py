"""A Loss with parameters learns with the tokenizer, on any number of processes, and is in checkpoints."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training.tiny import build, copy_checkpoint, metric_lines, tiny_config, train

from toolkit.build import build_objective
from toolkit.contracts import Loss, TokenizerOutput
from toolkit.registry import LOSSES

TERM = dict(loss=dict(type="LearnedScaleForTests"), weight=2.0)


@LOSSES.register_module(name="LearnedScaleForTests")
class LearnedScale(Loss):
    """|x - y| exp(-s) + s: the likelihood of a Laplace distribution whose scale is learned."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(3, 1, 1, 1))

    def forward(self, output, target):
        return ((output.reconstruction - target).abs() * (-self.log_scale).exp() + self.log_scale).mean()


def config_of(clips, **changes) -> dict:
    return tiny_config(clips, objective__losses__learned=TERM, **changes)


def test_a_loss_with_parameters_gets_the_gradient_of_its_formula():
    objective = build_objective(dict(losses=dict(learned=TERM)))
    target, codes = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4, requires_grad=True)
    total, _ = objective.generator_loss(TokenizerOutput(codes, codes, codes, None), target, step=0)
    total.backward()
    difference = (codes - target).detach()
    # at s = 0: d/ds of |x - y| exp(-s) + s is 1 - |x - y|, in the mean over three channels
    expected = 2 * (1 - difference.abs().mean((0, 2, 3, 4))) / 3
    torch.testing.assert_close(objective.losses["learned"].log_scale.grad.flatten(), expected)
    torch.testing.assert_close(codes.grad, 2 * difference.sign() / difference.numel())


def test_a_loss_with_parameters_learns_is_saved_and_resumes(clips, tmp_path):
    config = config_of(clips, training__checkpoints=dict(every=2, keep=None))
    scale = train(config, tmp_path / "one").objective.losses["learned"].log_scale
    assert scale.abs().min() > 0
    saved = load_file(tmp_path / "one" / "checkpoints" / "step_4" / "objective.safetensors")
    assert torch.equal(saved["losses.learned.log_scale"], scale.detach())
    resumed = build(config, copy_checkpoint(tmp_path / "one", tmp_path / "other", step=2), resume=True)
    assert resumed.step == 2 and resumed.run()
    assert torch.equal(resumed.objective.losses["learned"].log_scale, scale)


def test_the_gradient_of_a_loss_counts_in_the_norm_and_is_clipped(clips, tmp_path):
    trainer = build(config_of(clips, training__max_steps=1, training__gradient_clipping=dict(tokenizer=1e-3)), tmp_path)
    seen = []
    parameters = [*trainer.tokenizer.network.parameters(), trainer.objective.losses["learned"].log_scale]
    trainer.tokenizer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.stack([parameter.grad.norm() for parameter in parameters])))
    trainer.run()
    assert seen[0].norm().item() == pytest.approx(1e-3, rel=1e-3) and seen[0][-1] > 0


def test_a_skipped_step_does_not_change_the_parameters_of_a_loss(clips, tmp_path):
    trainer = build(config_of(clips, training__max_steps=1), tmp_path)
    with torch.no_grad():
        trainer.tokenizer.network.decoder.conv_out.bias.fill_(float("nan"))
    trainer.run()
    assert trainer.finite_check.num_skipped == 1
    assert not trainer.objective.losses["learned"].log_scale.any()


def test_a_loss_without_weight_is_not_computed_and_does_not_change(clips, tmp_path):
    config = tiny_config(clips, objective__losses__learned={**TERM, "weight": [(2, 0.0), (2, 1.0)]},
                         training__max_steps=2)
    trainer = train(config, tmp_path)
    assert not trainer.objective.losses["learned"].log_scale.any()
    assert not any("learned" in line for line in metric_lines(tmp_path))
