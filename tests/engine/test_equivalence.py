"""Micro-batches, and processes, that share a batch train like one process with the whole."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from engine.outcomes import EPS, differences, outcome
from mmengine.config import Config
from testing.test_every_component import TINY
from training import tiny
from training.tiny import ADVERSARIAL, DISCRIMINATOR, IMAGE_DISCRIMINATOR, tiny_config, write_clips, write_images

from toolkit.build import build_component, build_trainer
from toolkit.quantizers import KL
from toolkit.registry import QUANTIZERS
from toolkit.training.settings import Settings

pytestmark = pytest.mark.engine

FSQ = dict(type="FSQ", levels=[5, 5, 5])  # no losses, no state
LFQ = dict(type="LFQ", bits=6)
VQ = dict(type="VQ", codebook_size=16, dim=4)
PER_SAMPLE = dict(loss=dict(type="NonSaturating"), weight=[(0, 0.05), (2, 0.2)], r1=dict(weight=0.5, every=2),
                  lecam=dict(weight=0.1, per_logit=True, decay=1.0))
SCHEDULES = dict(
    training__max_steps=3, training__validate_every=2, training__warmup_steps=2, training__eps=EPS,
    training__weight_decay=0.01, training__ema_warmup=True, training__discriminator_learning_rate=5e-4,
    training__gradient_clipping=dict(tokenizer=0.5, discriminator=0.5), training__quantization=[(0, 0.5), (2, 1.0)])


def blunt(quantizer: Mapping[str, Any]) -> dict[str, Any]:
    """LFQ's own temperature is so low that its entropies magnify the rounding of latents; here it is not."""
    quantizer = {"inv_temperature": 1.0} | quantizer if quantizer["type"] == "LFQ" else dict(quantizer)
    if "quantizers" in quantizer:
        quantizer["quantizers"] = [blunt(child) for child in quantizer["quantizers"]]
    return quantizer


def train(config: dict[str, Any], work_dir: Path) -> dict[str, torch.Tensor]:
    trainer = build_trainer(Config(config), work_dir=work_dir)
    for module in trainer.tokenizer.network.modules():
        if isinstance(module, KL):  # remove its noise, which each position draws anew
            module.moments.bias.data[module.dim:] = -30
    with torch.backends.mkldnn.flags(enabled=False):  # it chooses algorithms by the batch size, which round differently
        trainer.run()
    return outcome(work_dir)


def config_of(data: Path, *, batch_size: int, quantizer: Mapping[str, Any] = FSQ, images: bool = False,
              **changes: Any) -> dict[str, Any]:
    """The config of a run on clips, and with ``images`` on both; ``batch_size`` is per process."""
    config = tiny_config(data / "clips", **{"training__max_steps": 2, "training__eps": EPS, **changes},
                         data__train__batch_size=batch_size, data__val__batch_size=batch_size)
    config["tokenizer"]["quantizer"] = blunt(quantizer)
    if images:
        for split in ("train", "val"):
            dataset = dict(type="Images", path=str(data / "images"), size=16, train=split == "train")
            config["data"][split] = [config["data"][split], dict(dataset=dataset, batch_size=batch_size)]
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_clips(folder / "clips")
    write_images(folder / "images")
    return folder


# ---- micro-batches

def in_micro_batches(data: Path, folder: Path, **changes: Any) -> dict[str, float]:
    """Differences between steps of two micro-batches of one sample and of one batch of two."""
    large = train(config_of(data, batch_size=2, **changes), folder / "large")
    small = train(config_of(data, batch_size=1, training__gradient_accumulation_steps=2, **changes), folder / "small")
    return differences(small, large)


@pytest.mark.parametrize("case", [
    dict(discriminator=DISCRIMINATOR),
    dict(discriminator=dict(video=DISCRIMINATOR, image=IMAGE_DISCRIMINATOR), images=True),
], ids=["clips", "clips and images"])
def test_micro_batches_equal_one_large_batch_in_everything_that_is_per_sample(data, tmp_path, case):
    differing = in_micro_batches(data, tmp_path, objective__adversarial=PER_SAMPLE, quantizer=LFQ,
                             objective__quantizer=dict(codebook_entropy=0.0), **case, **SCHEDULES)
    assert {name for name in differing if not name.endswith("codebook_entropy")} == set()


def on_images(config: dict[str, Any]) -> dict[str, Any]:
    """A loss in the features of a network that needs frames of 32 pixels."""
    still = dict(num_frames=1, size=32)
    return dict(objective__losses__term=dict(loss=config, weight=0.01), data__train__dataset=still,
                data__val__dataset=still)


def gan_terms(discriminator: dict[str, Any] = DISCRIMINATOR, *, loss: str = "Hinge", **terms: Any) -> dict[str, Any]:
    return dict(discriminator=discriminator, objective__adversarial=dict(loss=dict(type=loss), weight=0.5, **terms))


def alone(loss: str, quantizer: dict[str, Any], *, weight: float = 0.1) -> dict[str, Any]:
    """One loss of a quantizer, its others without weight."""
    names = build_component(QUANTIZERS, quantizer).loss_weights
    return dict(quantizer=quantizer, objective__quantizer={name: weight * (name == loss) for name in names})


PATCHGAN = dict(type="PatchGANDiscriminator", filters=8, num_layers=2)
AVERAGES = dict(VQ, update="ema", decay=0.8)
REVIVING = dict(VQ, decay=0.1, revive_below=0.9)  # from the first step on
LEVELS = dict(type="Residual", quantizers=[dict(LFQ, scale=0.5**level) for level in range(3)], quantize_dropout=1.0)
# What a config can turn on, by the word for it -> each term alone, in all its forms.
TERMS: dict[str, list[dict[str, Any]]] = {
    "L1": [dict(objective__losses__term=dict(loss=dict(type="L1"), weight=1.0))],
    "L2": [{}],
    "LPIPS": [on_images(dict(type="LPIPS", net="alex"))],
    "LogitDistance": [on_images(dict(TINY["loss"]["LogitDistance"][0], type="LogitDistance"))],
    "Hinge": [gan_terms()],
    "NonSaturating": [gan_terms(loss="NonSaturating")],
    "StyleGANDiscriminator": [gan_terms()],
    "PatchGANDiscriminator": [gan_terms(PATCHGAN)],
    "AdaptiveWeight": [gan_terms(adaptive=dict(type="AdaptiveWeight"))],
    "r1": [gan_terms(r1=dict(weight=0.5))],
    "lecam": [gan_terms(lecam=dict(weight=0.1, decay=0.7, per_logit=per_logit)) for per_logit in (False, True)],
    "commitment": [alone("commitment", quantizer) for quantizer in (LFQ, VQ)],
    "per_sample_entropy": [alone("per_sample_entropy", LFQ)],
    "codebook_entropy": [alone("codebook_entropy", LFQ)],
    "codebook": [alone("codebook", VQ)],
    "quantization": [alone("quantization", dict(VQ, type="IBQ"))],
    "kl": [alone("kl", dict(type="KL", dim=4))],
    'update="ema"': [alone("none", AVERAGES)],
    "kmeans_iters": [alone("none", dict(VQ, kmeans_iters=2))],
    "revive_below": [alone("none", REVIVING)],
    "quantize_dropout": [alone("none", LEVELS)],
}


def test_every_term_has_been_measured():
    """A new loss or discriminator goes into TERMS, and if it differs into the settings' docstring."""
    QUANTIZERS.import_from_location()
    losses = {loss for name, variants in TINY["quantizer"].items() for arguments in variants
              for loss in build_component(QUANTIZERS, dict(arguments, type=name)).loss_weights}
    assert losses | TINY["loss"].keys() | TINY["discriminator"].keys() <= TERMS.keys()


@pytest.mark.parametrize("word", TERMS)
def test_terms_that_differ_in_micro_batches_are_those_that_the_settings_name(data, tmp_path, word):
    differing = set()
    for number, changes in enumerate(TERMS[word]):
        differing |= in_micro_batches(data, tmp_path / str(number), **changes).keys()
    text, = re.findall(r"gradient_accumulation_steps: (.*?)\n +\w+: ", Settings.__doc__, re.DOTALL)
    named = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
    # The log has losses without weight too; what a term does is in the weights.
    assert bool({name for name in differing if not name.startswith("log")}) == named, differing


# ---- processes

# One clip per process, so that the joined batch has the order of the whole one, by which VQ draws.
CASES: dict[str, dict[str, Any]] = {
    **{f"{name}-{number}": dict(quantizer=dict(arguments, type=name))
       for name, variants in TINY["quantizer"].items() for number, arguments in enumerate(variants)},
    "reviving": dict(quantizer=REVIVING),
    "reviving averages": dict(quantizer=dict(REVIVING, update="ema", kmeans_iters=2)),
    "stylegan": dict(discriminator=dict(video=DISCRIMINATOR, image=IMAGE_DISCRIMINATOR), images=True, quantizer=LFQ,
                     objective__adversarial=ADVERSARIAL, training__global_batch_size=4, **SCHEDULES),
    "patchgan": dict(quantizer=VQ, **gan_terms(PATCHGAN, adaptive=dict(type="AdaptiveWeight"),
                                          lecam=dict(weight=0.1, decay=0.7, per_logit=True))),
}


def share(rank: int, port: int, data: Path, folder: Path) -> None:
    """Train all cases as one of two processes."""
    tiny.join_two_processes(rank, port)
    for name, changes in CASES.items():
        train(config_of(data, batch_size=1, **changes), folder / name)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(data, tmp_path_factory) -> Path:
    """A folder with the runs of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    group = mp.spawn(share, args=(tiny.free_port(), data, folder), nprocs=2, join=False, daemon=True)
    deadline = time.monotonic() + 300
    while not group.join(timeout=5):
        if time.monotonic() > deadline:
            for process in group.processes:
                process.kill()
            pytest.fail("two processes were not done after 300 s")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_like_one_with_twice_the_batch(data, tmp_path, of_two_processes, case):
    assert differences(outcome(of_two_processes / case), train(config_of(data, batch_size=2, **CASES[case]),
                                                               tmp_path)) == {}


def test_processes_draw_their_own_noise(of_two_processes):
    states = [torch.load(of_two_processes / "KL-0" / "checkpoints" / "step_2" / f"process_{rank}.pt",
                         weights_only=True)["random"]["torch"] for rank in (0, 1)]
    assert not torch.equal(*states)
