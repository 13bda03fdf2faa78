"""Two gloo processes with half a batch each equal one with the whole; whole runs are in tests/engine."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from test_learning_loss import TERM
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training import tiny

from toolkit.build import build_objective
from toolkit.contracts import TokenizerOutput
from toolkit.networks import PatchGANDiscriminator
from toolkit.training.objective import LeCAM
from toolkit.training.optimizer import OptimizerState
from toolkit.training.settings import Settings

STEPS = 3


def logits(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(4, 1) of real pixels and of reconstructions."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 1, generator=generator) + 1, torch.randn(4, 1, generator=generator) - 1


def penalties(share: slice) -> list[dict[str, list[float] | float]]:
    """Of each form and step: the penalty, the gradients of this share's logits, the average."""
    results = []
    for per_logit in (False, True):
        lecam = LeCAM(decay=0.7, per_logit=per_logit)
        for step in range(STEPS):
            real, fake = (half[share].requires_grad_() for half in logits(step))
            penalty = lecam(real, fake)
            penalty.backward()
            results.append({"penalty": penalty.item(), "real": real.grad.flatten().tolist(),
                            "fake": fake.grad.flatten().tolist(), "average": lecam.average_real.item()})
    return results


def patchgan_step(share: slice) -> dict[str, torch.Tensor]:
    """Gradients and statistics after one step with VQGAN's GAN losses and R1 on this share of four clips."""
    torch.manual_seed(0)
    plain, decoder = PatchGANDiscriminator(filters=4, num_layers=2), nn.Conv3d(4, 3, 1)
    pixels, codes = torch.randn(4, 3, 2, 16, 16)[share], torch.randn(4, 4, 2, 16, 16)[share]
    discriminator, generator = (DistributedDataParallel(network) if dist.is_initialized() else network
                                for network in (plain, decoder))
    objective = build_objective(dict(
        losses=dict(pixels=dict(loss=dict(type="L2"), weight=2.0)),
        adversarial=dict(loss=dict(type="Hinge"), weight=0.8, adaptive=dict(type="AdaptiveWeight"),
                         lecam=dict(weight=0.1), r1=dict(weight=0.5))))
    output = TokenizerOutput(generator(codes), latents=codes, codes=codes, indices=None)
    total, scalars = objective.generator_loss(output, pixels, step=0, discriminator=plain, last_layer=decoder.weight)
    total.backward()
    total, more = objective.discriminator_loss(output, pixels, step=0, discriminator=discriminator)
    total.backward()
    gradients = {f"{network}.{name}": parameter.grad for network, module in dict(d=plain, g=decoder).items()
                 for name, parameter in module.named_parameters()}
    return gradients | dict(plain.named_buffers()) | scalars | more


def learned_loss_step(share: slice) -> dict[str, torch.Tensor]:
    """Gradients and weights after a step of a decoder and a loss with parameters on this share of four clips."""
    torch.manual_seed(0)
    decoder = nn.Conv3d(4, 3, 1)
    pixels, codes = torch.randn(4, 3, 2, 8, 8)[share], torch.randn(4, 4, 2, 8, 8)[share]
    objective = build_objective(dict(losses=dict(learned=TERM)))
    scale = objective.losses["learned"].log_scale
    state = OptimizerState(decoder, learning_rate=0.1, settings=Settings(max_steps=10, eps=1e-2),
                             accelerator=Accelerator(cpu=True), extra=objective.losses.parameters())
    output = TokenizerOutput(state.wrapped(codes), latents=codes, codes=codes, indices=None)
    state.backward(objective.generator_loss(output, pixels, step=0)[0])
    norm = state.clip_gradients()
    gradient = scale.grad.clone()
    state.update(0)
    return {"norm": norm, "gradient": gradient, "scale": scale.detach(), "weight": decoder.weight.detach()}


def run(rank: int, folder: str, port: int) -> None:
    tiny.join_two_processes(rank, port)
    Accelerator(cpu=True)
    share = slice(2 * rank, 2 * rank + 2)
    results = {"penalties": penalties(share), "patchgan": patchgan_step(share), "learned": learned_loss_step(share)}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> list[dict]:
    """The results of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(run, args=(str(folder), tiny.free_port()), nprocs=2)
    return [torch.load(Path(folder, f"{rank}.pt")) for rank in (0, 1)]


def test_lecam_of_two_processes_equals_the_joined_batch(halves):
    shares = [half["penalties"] for half in halves]
    for whole, *halves in zip(penalties(slice(0, 4)), *shares, strict=True):
        # data-parallel training averages the losses' gradients over the processes
        assert sum(half["penalty"] for half in halves) / 2 == pytest.approx(whole["penalty"], rel=1e-5)
        for side in ("real", "fake"):
            joined = [gradient / 2 for half in halves for gradient in half[side]]
            assert joined == pytest.approx(whole[side], rel=1e-5, abs=1e-7)
        assert [half["average"] for half in halves] == pytest.approx([whole["average"]] * 2, rel=1e-5)


def test_patchgan_step_of_two_processes_equals_the_joined_batch(halves):
    whole = patchgan_step(slice(0, 4))
    assert {"d.main.0.weight", "g.weight", "main.3.running_var", "adaptive_weight", "r1"} <= set(whole)
    for name, value in whole.items():
        values = [half["patchgan"][name] for half in halves]
        if name.startswith(("d.", "g.", "main.")) or name == "adaptive_weight":
            torch.testing.assert_close(*values, rtol=1e-6, atol=1e-7)  # both know the joined batch's
        joined = (values[0].float() + values[1].float()) / 2
        torch.testing.assert_close(joined, value.float(), rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert whole["main.3.num_batches_tracked"] == 4  # reconstructions, real, reconstructions, R1


def test_two_processes_learn_the_parameters_of_a_loss_from_the_joined_batch(halves):
    tiny.assert_equal(halves[0]["learned"], halves[1]["learned"])
    torch.testing.assert_close(halves[0]["learned"], learned_loss_step(slice(0, 4)), rtol=1e-4, atol=1e-6)
