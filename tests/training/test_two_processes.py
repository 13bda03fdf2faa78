"""Two gloo processes with half a batch each equal one with the whole; whole runs are in tests/engine."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from toolkit.build import build_objective
from toolkit.contracts import TokenizerOutput
from toolkit.networks import PatchGANDiscriminator
from toolkit.training.objective import LeCAM

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
    total, more = objective.discriminator_loss(output, pixels, step=0, discriminator=discriminator,
                                               plain_discriminator=plain)
    total.backward()
    gradients = {f"{network}.{name}": parameter.grad for network, module in dict(d=plain, g=decoder).items()
                 for name, parameter in module.named_parameters()}
    return gradients | dict(plain.named_buffers()) | scalars | more


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = slice(2 * rank, 2 * rank + 2)
    Path(folder, f"{rank}.json").write_text(json.dumps(penalties(share)))
    torch.save(patchgan_step(share), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> Path:
    """A folder with the results of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(run, args=(str(folder),), nprocs=2)
    return folder


def test_lecam_of_two_processes_equals_the_joined_batch(processes):
    shares = [json.loads((processes / f"{rank}.json").read_text()) for rank in (0, 1)]
    for whole, *halves in zip(penalties(slice(0, 4)), *shares, strict=True):
        # data-parallel training averages the losses' gradients over the processes
        assert sum(half["penalty"] for half in halves) / 2 == pytest.approx(whole["penalty"], rel=1e-5)
        for side in ("real", "fake"):
            joined = [gradient / 2 for half in halves for gradient in half[side]]
            assert joined == pytest.approx(whole[side], rel=1e-5, abs=1e-7)
        assert [half["average"] for half in halves] == pytest.approx([whole["average"]] * 2, rel=1e-5)


def test_patchgan_step_of_two_processes_equals_the_joined_batch(processes):
    whole = patchgan_step(slice(0, 4))
    shares = [torch.load(processes / f"{rank}.pt") for rank in (0, 1)]
    assert {"d.main.0.weight", "g.weight", "main.3.running_var", "adaptive_weight", "r1"} <= set(whole)
    for name, value in whole.items():
        halves = [share[name] for share in shares]
        if name.startswith(("d.", "g.", "main.")) or name == "adaptive_weight":
            torch.testing.assert_close(*halves, rtol=1e-6, atol=1e-7)  # both know the joined batch's
        joined = (halves[0].float() + halves[1].float()) / 2
        torch.testing.assert_close(joined, value.float(), rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert whole["main.3.num_batches_tracked"] == 4  # reconstructions, real, reconstructions, R1
