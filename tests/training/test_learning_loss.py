"""A Loss with parameters learns with the tokenizer, on any number of processes, and is in checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from mmengine.config import Config
from safetensors.torch import load_file
from torch import nn
from training import tiny
from training.tiny import metric_lines, tiny_config

from toolkit.build import build_objective, build_trainer
from toolkit.contracts import Loss, TokenizerOutput
from toolkit.registry import LOSSES
from toolkit.training.optimizer import OptimizerState
from toolkit.training.settings import Settings

clips, as_in_a_new_process = tiny.clips, tiny.as_in_a_new_process


@LOSSES.register_module(name="LearnedScaleForTests")
class LearnedScale(Loss):
    """|x - y| exp(-s) + s: the likelihood of a Laplace distribution whose scale is learned."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(3, 1, 1, 1))

    def forward(self, output, target):
        return ((output.reconstruction - target).abs() * (-self.log_scale).exp() + self.log_scale).mean()


def config_of(clips, **changes) -> Config:
    learned = dict(loss=dict(type="LearnedScaleForTests"), weight=2.0)
    return Config(tiny_config(clips, objective__losses__learned=learned, **changes))


def test_a_loss_with_parameters_gets_the_gradient_of_its_formula():
    objective = build_objective(dict(losses=dict(learned=dict(loss=dict(type="LearnedScaleForTests"), weight=2.0))))
    torch.manual_seed(0)
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
    trainer = build_trainer(config, work_dir=tmp_path / "one")
    assert trainer.run()
    scale = trainer.objective.losses["learned"].log_scale
    assert scale.abs().min() > 0
    saved = load_file(tmp_path / "one" / "checkpoints" / "step_4" / "objective.safetensors")
    assert torch.equal(saved["losses.learned.log_scale"], scale.detach())
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    shutil.copytree(tmp_path / "one" / "checkpoints" / "step_2", tmp_path / "other" / "checkpoints" / "step_2")
    resumed = build_trainer(config, work_dir=tmp_path / "other", resume=True)
    assert resumed.step == 2 and resumed.run()
    assert torch.equal(resumed.objective.losses["learned"].log_scale, scale)


def test_the_gradient_of_a_loss_counts_in_the_norm_and_is_clipped(clips, tmp_path):
    trainer = build_trainer(config_of(clips, training__max_steps=1, training__gradient_clipping=dict(tokenizer=1e-3)),
                            work_dir=tmp_path)
    seen = []
    parameters = [*trainer.tokenizer.plain.parameters(), trainer.objective.losses["learned"].log_scale]
    trainer.tokenizer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.stack([parameter.grad.norm() for parameter in parameters])))
    trainer.run()
    assert seen[0].norm().item() == pytest.approx(1e-3, rel=1e-3) and seen[0][-1] > 0


def test_a_skipped_step_does_not_change_the_parameters_of_a_loss(clips, tmp_path):
    trainer = build_trainer(config_of(clips, training__max_steps=1), work_dir=tmp_path)
    with torch.no_grad():
        trainer.tokenizer.plain.decoder.conv_out.bias.fill_(float("nan"))
    trainer.run()
    assert trainer.finite_check.num_skipped == 1
    assert not trainer.objective.losses["learned"].log_scale.any()


def test_a_loss_without_weight_is_not_computed_and_does_not_change(clips, tmp_path):
    config = config_of(clips, training__max_steps=2)
    config.objective.losses.learned.weight = [(2, 0.0), (2, 1.0)]
    trainer = build_trainer(config, work_dir=tmp_path)
    trainer.run()
    assert not trainer.objective.losses["learned"].log_scale.any()
    assert not any("learned" in line for line in metric_lines(tmp_path))


def one_step(share: slice) -> dict[str, torch.Tensor]:
    """Gradients and weights after a step of a decoder and the loss on this share of four clips."""
    torch.manual_seed(0)
    decoder = nn.Conv3d(4, 3, 1)
    pixels, codes = torch.randn(4, 3, 2, 8, 8)[share], torch.randn(4, 4, 2, 8, 8)[share]
    objective = build_objective(dict(losses=dict(learned=dict(loss=dict(type="LearnedScaleForTests"), weight=2.0))))
    scale = objective.losses["learned"].log_scale
    state = OptimizerState(decoder, learning_rate=0.1, settings=Settings(max_steps=10, eps=1e-2),
                           accelerator=Accelerator(cpu=True), extra=objective.losses.parameters())
    output = TokenizerOutput(state.module(codes), latents=codes, codes=codes, indices=None)
    state.backward(objective.generator_loss(output, pixels, step=0)[0])
    norm = state.gradient_norm()
    gradient = scale.grad.clone()
    state.step(0)
    return {"norm": norm, "gradient": gradient, "scale": scale.detach(), "weight": decoder.weight.detach()}


def run(rank: int, folder: str, port: int) -> None:
    tiny.join_two_processes(rank, port)
    torch.save(one_step(slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_learn_the_parameters_of_a_loss_from_the_joined_batch(tmp_path):
    mp.spawn(run, args=(str(tmp_path), tiny.free_port()), nprocs=2)
    halves = [torch.load(Path(tmp_path, f"{rank}.pt")) for rank in (0, 1)]
    for name, value in one_step(slice(0, 4)).items():
        torch.testing.assert_close(halves[0][name], halves[1][name], rtol=0, atol=0)
        torch.testing.assert_close(halves[0][name], value, rtol=1e-4, atol=1e-6)
