"""Steps with values that are not finite change no weights on any process; they are counted and logged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.multiprocessing as mp
from engine.runs import assert_same_tensors
from mmengine.config import Config
from safetensors.torch import load_file
from torch import nn
from training import tiny
from training.tiny import metric_lines, tiny_config, write_clips

from toolkit.build import build_trainer
from toolkit.contracts import Loss
from toolkit.data import VideoClips
from toolkit.quantizers import VQ
from toolkit.registry import DATASETS, LOSSES
from toolkit.testing.checks import Check
from toolkit.testing.processes import on_two_processes
from toolkit.training import Trainer
from toolkit.training.checkpoint import checkpoints_in
from toolkit.training.nonfinite import DivergenceError

pytestmark = pytest.mark.engine
STYLEGAN = dict(gan=True)
PATCHGAN = dict(discriminator=dict(type="PatchGANDiscriminator", filters=8, num_layers=2),  # with batch statistics
                objective__adversarial=dict(loss=dict(type="Hinge"), weight=0.8, adaptive=dict(type="AdaptiveWeight"),
                                            lecam=dict(weight=0.1)))
QUANTIZERS = {
    "LFQ": dict(type="LFQ", bits=6), "BSQ": dict(type="BSQ", bits=6), "FSQ": dict(type="FSQ", levels=[4, 4, 4]),
    "VQ": dict(type="VQ", codebook_size=16, dim=4),
    "VQ as an average": dict(type="VQ", codebook_size=16, dim=4, update="ema", kmeans_iters=2, revive_below=0.5),
    "VQ from clusters": dict(type="VQ", codebook_size=16, dim=4, kmeans_iters=2, revive_below=0.5),
    "IBQ": dict(type="IBQ", codebook_size=16, dim=4),
    "Residual": dict(type="Residual", quantizers=[dict(type="LFQ", bits=6)] * 2),
    "Residual of VQs": dict(type="Residual", quantizers=[
        dict(type="VQ", codebook_size=16, dim=4, update=update, kmeans_iters=2) for update in ("ema", "gradient")]),
    "Grouped": dict(type="Grouped", quantizers=[dict(type="FSQ", levels=[4, 4])] * 2),
    "KL": dict(type="KL", dim=4), "Identity": dict(type="Identity", dim=4),
}


@DATASETS.register_module()
class TornClips(VideoClips):
    """Clips with NaN pixels in one file, or in every file from a call on."""

    def __init__(self, *, path: str, num_frames: int, size: int, torn: int | None = None,
                 torn_from: int | None = None):
        super().__init__(path=path, num_frames=num_frames, size=size)
        self.torn, self.torn_from, self.calls = torn, torn_from, 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample, self.calls = super().__getitem__(index), self.calls + 1
        if index == self.torn or (self.torn_from is not None and self.calls >= self.torn_from):
            sample["pixels"].fill_(math.nan)
        return sample


@LOSSES.register_module()
class Cliff(Loss):
    """Zero, with a gradient of NaN."""

    def forward(self, output, target):
        return (0 * output.reconstruction.float()).abs().sum().sqrt()


def torn_config(clips, **changes: Any) -> dict[str, Any]:
    return tiny_config(clips, data__train__dataset__type="TornClips", data__train__batch_size=1,
                       training__checkpoints=dict(every=1, keep=None), **changes)


def build(config, work_dir, **options: Any) -> Trainer:
    return build_trainer(Config(config), work_dir=work_dir, **options)


def skipped(work_dir: Path) -> list[dict[str, Any]]:
    return [line for line in metric_lines(work_dir) if line["split"] == "skipped"]


def state(trainer: Trainer) -> dict[str, Any]:
    """Everything that a step can change."""
    modules = {name: module.state_dict() for name, module in trainer._modules().items()}
    optimizers = {name: network.optimizer.state_dict() for name, network in trainer._networks().items()}
    return torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x,
                                        {**modules, "optimizers": optimizers})


def step(trainer: Trainer) -> None:
    trainer._train_step(Mock())  # a log that takes everything


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("gan", [STYLEGAN, PATCHGAN], ids=["stylegan", "patchgan"])
@pytest.mark.parametrize("num_good", [2, 0], ids=["later", "first"])
def test_a_batch_of_nan_changes_nothing(clips, tmp_path, name, gan, num_good):
    config = torn_config(clips, data__train__dataset__torn_from=num_good + 1, tokenizer__quantizer={"_delete_": True,
                         **QUANTIZERS[name]}, metrics=[dict(type="PSNR")], **gan)
    trainer = build(config, tmp_path)
    for _ in range(num_good):
        step(trainer)
    before = state(trainer)
    assert trainer.finite_check.num_skipped == 0 and all(
        tensor.isfinite().all() for tensor in before["tokenizer"].values())
    for _ in range(2):
        step(trainer)
    assert trainer.step == num_good + 2 and trainer.finite_check.num_skipped == trainer.finite_check.in_a_row == 2
    assert_same_tensors(before, state(trainer), name)


def codebooks_over(batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """The codebook before the first batch and after each."""
    torch.manual_seed(0)
    quantizer = VQ(codebook_size=8, dim=2, update="ema", decay=0.0, kmeans_iters=2, revive_below=0.5)
    codebooks = [quantizer.codebook.clone()]
    for batch in batches:
        quantizer(batch)
        codebooks.append(quantizer.codebook.clone())
    return codebooks


def test_clusters_wait_for_a_batch_that_is_finite_on_all_processes():
    points = 10 * torch.randn(8, 2)  # as many as codes: each is a cluster
    first, second = (half.T.reshape(1, 2, 1, 2, 2) for half in points.chunk(2))
    torn = torch.full_like(first, math.nan)
    partly = torch.where(torch.arange(4).reshape(2, 2) == 0, torn, first)
    check = Check(VQ(codebook_size=8, dim=2), "processes start together")
    one, other = on_two_processes(check, codebooks_over, [([torn, torn, partly, first, torn],),
                                                        ([torn, second, second, second, second],)])
    assert_same_tensors(one, other, "codebooks")
    before, *waiting, started, last = one
    assert all(torch.equal(before, codebook) for codebook in waiting) and torch.equal(started, last)
    torch.testing.assert_close(*(x[x[:, 0].argsort()] for x in (started, points)), rtol=1e-3, atol=1e-3)


def test_a_skipped_step_is_logged_with_its_samples_and_counted_and_the_run_continues(clips, tmp_path, caplog):
    config = torn_config(clips, data__train__dataset__torn=1, training__max_steps=3)
    assert build(config, tmp_path).run()
    config["training"]["max_steps"] = 6
    trainer = build(config, tmp_path, resume=True)
    assert trainer.run()
    torn = str(trainer.train_loader.sources[0].dataset.files[1])
    lines = skipped(tmp_path)
    assert len(lines) == trainer.finite_check.num_skipped == 2  # each of three files twice in six steps
    assert all(line["keys"] == [torn] and "reconstruction is nan" in line["reason"] for line in lines)
    trained = [line for line in metric_lines(tmp_path) if line["split"] == "train" and "total" in line]
    assert {line["step"] for line in trained} == {1, 2, 3, 4, 5, 6} - {line["step"] for line in lines}
    assert all(math.isfinite(value) for line in trained for value in line.values() if isinstance(value, float))
    assert f"a step is skipped (1 in a row, 1 in all): {lines[0]['reason']}; suspect samples: {torn}" in caplog.text
    assert "2 steps were skipped" in caplog.text


@pytest.mark.parametrize(("weight", "steps", "same"), [
    ([(1, 0.0), (1, 1.0)], [2, 3], ["step_1/tokenizer", "step_3/tokenizer"]),
    ([(1, 1.0), (1, 0.0)], [1], ["step_2/tokenizer", "step_2/ema"])],  # the average starts from the second step
    ids=["later", "first"])
def test_a_gradient_that_is_not_finite_skips_the_step_even_if_losses_are_finite(clips, tmp_path, weight, steps, same):
    cliff = dict(loss=dict(type="Cliff"), weight=weight)
    assert build(torn_config(clips, objective__losses__cliff=cliff, training__max_steps=3), tmp_path).run()
    assert [line["step"] for line in skipped(tmp_path)] == steps
    assert all("gradient_norm is nan" in line["reason"] for line in skipped(tmp_path))
    one, other = (load_file(tmp_path / "checkpoints" / f"{name}.safetensors") for name in same)
    assert_same_tensors(one, other, "weights")


def test_codes_drawn_in_a_skipped_step_are_restored(clips, tmp_path):
    """The latents are good, so clusters become the codebook, which is a parameter; the gradient is not."""
    config = torn_config(clips, objective__losses__cliff=dict(loss=dict(type="Cliff"), weight=1.0),
                         tokenizer__quantizer={"_delete_": True, **QUANTIZERS["VQ from clusters"]})
    trainer = build(config, tmp_path)
    before = state(trainer)
    step(trainer)
    assert trainer.finite_check.num_skipped == 1
    assert_same_tensors(before, state(trainer), "codebook")


def test_too_many_in_a_row_end_the_run_with_the_last_good_checkpoint(clips, tmp_path):
    shared = dict(training__max_steps=20, training__max_skipped_in_a_row=3)
    with pytest.raises(DivergenceError, match=r"(?s)4 skipped steps in a row.*gradient_clipping.*--resume"):
        build(torn_config(clips, data__train__dataset__torn_from=3, **shared), tmp_path).run()
    assert [path.name for path in checkpoints_in(tmp_path / "checkpoints")] == ["step_1", "step_2"]
    trainer = build(torn_config(clips, **shared | dict(training__max_steps=4)), tmp_path, resume=True)
    assert trainer.run() and trainer.finite_check.num_skipped == 0
    assert [line["step"] for line in metric_lines(tmp_path) if "total" in line] == [1, 2, 3, 4]
    assert not skipped(tmp_path)


def train_torn(rank: int, folder: str, port: int) -> None:
    tiny.join_two_processes(rank, port)
    config = torn_config(Path(folder) / "clips", data__train__dataset__torn=1, training__max_steps=6, **STYLEGAN)
    trainer = build(config, Path(folder) / "run")
    trainer.run()
    torch.save(state(trainer), f"{folder}/{rank}.pt")
    Path(folder, f"{rank}.json").write_text(json.dumps(trainer.finite_check.num_skipped))
    torch.distributed.destroy_process_group()


def test_processes_skip_a_step_together(tmp_path):
    folder = write_clips(tmp_path / "clips")
    mp.spawn(train_torn, args=(str(tmp_path), tiny.free_port()), nprocs=2)
    counts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    lines = skipped(tmp_path / "run")
    assert counts == [len(lines)] * 2 and len(lines) == 4  # twelve samples, four of the torn file, never two at once
    # only the process with the torn file is suspected
    assert all(line["keys"] == [str(folder / "1.mp4")] for line in lines)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert_same_tensors(one, other, "processes")
    assert all(tensor.isfinite().all() for tensor in one["tokenizer"].values())


@pytest.mark.parametrize("limits", [{}, dict(tokenizer=0.01), dict(discriminator=0.02),
                                    dict(tokenizer=0.01, discriminator=0.02)])
def test_each_network_has_its_own_clipping(clips, tmp_path, limits):
    trainer = build(tiny_config(clips, training__gradient_clipping=limits, training__max_steps=2, **STYLEGAN), tmp_path)
    norms_of: dict[str, list[float]] = {"tokenizer": [], "discriminator": []}

    def watch(name: str, network: nn.Module):
        def before_step(*_: object) -> None:
            squares = [p.grad.double().square().sum() for p in network.parameters() if p.grad is not None]
            norms_of[name].append(torch.stack(squares).sum().sqrt().item())
        return before_step

    for name, trained in dict(tokenizer=trainer.tokenizer, discriminator=trainer.discriminators["video"]).items():
        trained.optimizer.register_step_pre_hook(watch(name, trained.network))
    trainer.run()
    logged = [line for line in metric_lines(tmp_path) if "total" in line]
    names = dict(tokenizer="gradient_norm", discriminator="discriminator_gradient_norm")
    for name, norms in norms_of.items():
        assert len(norms) == 2
        for norm, line in zip(norms, logged, strict=True):
            assert line[names[name]] > 0.02  # before clipping
            assert norm == pytest.approx(min(line[names[name]], limits.get(name, math.inf)), rel=1e-3)
