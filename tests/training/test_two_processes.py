"""Two gloo processes with half a batch each equal one with the whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from safetensors.torch import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training import tiny
from training.tiny import metric_lines, tiny_config, write_config

from toolkit import load_tokenizer
from toolkit.contracts import TokenizerOutput
from toolkit.networks import PatchGANDiscriminator
from toolkit.training import build_objective, build_trainer
from toolkit.training.regularizers import LeCAM

clips, as_in_a_new_process = tiny.clips, tiny.as_in_a_new_process
ROOT = Path(__file__).parents[2]
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


def patch_game(share: slice) -> dict[str, torch.Tensor]:
    """Gradients and statistics after one step of VQGAN's game, with R1, on this share of four clips."""
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
    torch.save(patch_game(share), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> Path:
    """A folder with what each of two processes found."""
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


def test_patch_game_of_two_processes_equals_the_joined_batch(processes):
    whole = patch_game(slice(0, 4))
    shares = [torch.load(processes / f"{rank}.pt") for rank in (0, 1)]
    assert {"d.main.0.weight", "g.weight", "main.3.running_var", "adaptive_weight", "r1"} <= set(whole)
    for name, value in whole.items():
        halves = [share[name] for share in shares]
        if name.startswith(("d.", "g.", "main.")) or name == "adaptive_weight":
            torch.testing.assert_close(*halves, rtol=1e-6, atol=1e-7)  # both know the joined batch's
        joined = (halves[0].float() + halves[1].float()) / 2
        torch.testing.assert_close(joined, value.float(), rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert whole["main.3.num_batches_tracked"] == 4  # reconstructions, real, reconstructions, R1


def assert_equal_weights(one: Path, other: Path) -> None:
    left, right = load_file(one), load_file(other)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: n + text)


PATCH_GAME = dict(
    discriminator=dict(type="PatchGANDiscriminator", filters=8, num_layers=2),
    objective__adversarial=dict(loss=dict(type="Hinge"), weight=0.8, adaptive=dict(type="AdaptiveWeight")))


@pytest.mark.slow
@pytest.mark.parametrize("game", [dict(gan=True), PATCH_GAME], ids=["stylegan", "patchgan"])
def test_two_processes_write_one_set_of_files_and_the_weights_of_one_process(clips, tmp_path, game):
    # A small eps would turn the rounding of gradients that are zero (biases before a norm) into whole steps.
    shared = dict(training__max_steps=3, training__validate_every=2, training__warmup_steps=2,
                  training__checkpoints=dict(every=2, keep=1), training__eps=1e-3, **game)
    config = tiny_config(clips, data__train__batch_size=1, **shared)
    # torchrun, not accelerate launch, which starts several CPU processes through mpirun only
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(ROOT / "tools" / "train.py"), str(write_config(tmp_path / "tiny.py", config)),
               "--work-dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("video, validation set") == 1
    work_dir = tmp_path / "run"
    assert [line["step"] for line in metric_lines(work_dir) if "total" in line] == [1, 2, 3]
    assert json.loads((work_dir / "provenance.json").read_text())["num_processes"] == 2
    assert len(list((work_dir / "events").glob("events*"))) == 1
    checkpoint, = (work_dir / "checkpoints").iterdir()
    assert checkpoint.name == "step_3" and len(list(checkpoint.glob("process_*.pt"))) == 2
    assert load_tokenizer(work_dir / "tokenizer").codebook_size == 2**6

    build_trainer(Config(tiny_config(clips, data__train__batch_size=2, **shared)), work_dir=tmp_path / "one").run()
    for name in ("tokenizer/model", "checkpoints/step_3/discriminator_video", "checkpoints/step_3/objective"):
        assert_equal_weights(work_dir / f"{name}.safetensors", tmp_path / "one" / f"{name}.safetensors")
