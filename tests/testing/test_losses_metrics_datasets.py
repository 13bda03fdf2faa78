"""The checks of losses, metrics and datasets accept valid components and name violations."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from testing.variants import check, variant
from torch import nn

from toolkit.contracts import AdversarialLoss, Column, Dataset, GeneratorWeight, Loss, Metric
from toolkit.layers import mean_over_processes
from toolkit.testing import ContractViolation

DRAWS = itertools.count(1)  # no seed reaches it


class Distance(Loss):
    """A good one to break."""

    def forward(self, output, target):
        return (output.reconstruction.float() - target).square().mean()


class SavesFrozen(Distance):
    def __init__(self):
        super().__init__()
        self.network = nn.Conv3d(3, 3, 1).requires_grad_(False)

    def forward(self, output, target):
        return (self.network(output.reconstruction.float()) - self.network(target)).square().mean()


class Learns(Distance):
    """A good one with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output, target):
        return super().forward(output, target) * self.scale


class Wasserstein(AdversarialLoss):
    """A good one to break."""

    def generator(self, fake_logits):
        return -fake_logits.float().mean()

    def discriminator(self, real_logits, fake_logits):
        return fake_logits.float().mean() - real_logits.float().mean()


class Ratio(GeneratorWeight):
    """A good one to break."""

    def forward(self, reconstruction_loss, adversarial_loss, last_layer):
        norms = [mean_over_processes(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]).norm()
                 for loss in (reconstruction_loss, adversarial_loss)]
        return norms[0] / norms[1]


class OwnNorms(GeneratorWeight):
    def forward(self, reconstruction_loss, adversarial_loss, last_layer):
        return torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)[0].norm()


class Error(Metric):
    """A good one to break: the mean absolute error of samples."""

    higher_is_better = {"error": False}
    columns = {"error": Column("mean error", format=".2f", factor=100, unit="%")}

    def __init__(self):
        self.reset()

    def update(self, *, target, reconstruction, indices):
        self.total += (target - reconstruction).double().abs().mean((1, 2, 3, 4)).sum().item()
        self.count += len(target)

    def compute(self):
        sums = torch.tensor([self.total, self.count], dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(sums)
        return {"error": (sums[0] / sums[1]).item()}

    def reset(self):
        self.total, self.count = 0.0, 0


class MeanOfMeans(Error):
    def update(self, *, target, reconstruction, indices):
        self.total += (target - reconstruction).double().abs().mean().item()
        self.count += 1


class OneProcessOnly(Error):
    def compute(self):
        return {"error": self.total / self.count}


class NeverForgets(Error):
    def reset(self):
        self.total, self.count = getattr(self, "total", 0.0), getattr(self, "count", 0)


class ComputesOnce(Error):
    def compute(self):
        scores = super().compute()
        self.total = 0.0
        return scores


class Grey(Dataset):
    """A good one to break."""

    modality = "image"

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"pixels": torch.zeros(3, 1, 4, 4) + index / 3, "key": f"grey {index}"}


def grey(sample: dict[str, Any]) -> Dataset:
    """A dataset of one sample, three times."""
    return variant(Grey, __getitem__=lambda self, index: sample)


class Stream(Dataset):
    """A good one without a length."""

    modality = "video"

    def __iter__(self):
        while True:
            yield {"pixels": torch.rand(3, 2, 4, 4), "key": "noise"}


class Letters(Dataset):
    """A good one whose readers have shares."""

    modality, sample_size = "image", (1, 4, 4)

    def __init__(self, *, letters: str = "abcde"):
        self.letters = letters

    def __iter__(self):
        return iter([{"pixels": torch.zeros(3, 1, 4, 4), "key": letter} for letter in self.letters])

    def shard(self, index, count):
        return type(self)(letters=self.letters[index::count])


@pytest.mark.parametrize("component", [
    Distance(), Learns(), Wasserstein(), Ratio(), Error(), Grey(), Stream(), Letters()],
    ids=lambda component: type(component).__name__)
def test_valid_component_passes(component):
    check(component)


@pytest.mark.parametrize(("component", "message"), [
    (variant(Distance, forward=lambda self, output, target: output.reconstruction.float().mean((1, 2, 3, 4))),
     r"needed loss as a \(\) float32 tensor, got \(2,\) of torch.float32; .* and take the mean"),
    (variant(Distance, forward=lambda self, output, target: output.reconstruction.square().mean()),
     r"got \(\) of torch.bfloat16; compute in float32"),
    (variant(Distance, forward=lambda self, output, target: Distance.forward(self, output, target).detach()),
     "the gradient reaches output.reconstruction.*one cut off from any"),
    (SavesFrozen(), r"in no checkpoint.*such as \['network.bias', 'network.weight'\]; wrap .*Frozen"),
    (variant(Learns, forward=Distance.forward), r"its parameters learn.*none at \['scale'\]"),
    (variant(Error, columns={"mean_error": Column("mean error")}),
     r"needed a Column of one of \['error'\], got 'mean_error'"),
    (variant(Error, target_state=lambda self: {}), "target_state gives the same scores.*has no load_target_state"),
    (variant(Grey, sample_size=(1, 8, 8)), r"needed its sample_size \(1, 8, 8\), got \(1, 4, 4\)"),
    (variant(Letters, shard=lambda self, index, count: Letters(letters=self.letters[:-1][index::count])),
     "the shares of its readers are the data set.*4 instead of 5"),
    (variant(Wasserstein, discriminator=lambda self, real, fake: Wasserstein.discriminator(self, fake, real)),
     "low when real and fake are distinguished.*got 2 and -2; see which of the two arguments comes first"),
    (variant(Wasserstein, generator=lambda self, fake: fake.float().mean()),
     "low when its fake passes as real.*correct the sign"),
    (variant(Wasserstein, generator=lambda self, fake: -fake[:, 0].float().mean()),
     r"the generator's side is one finite float32 number for logits \(4,\).*IndexError"),
    (variant(Wasserstein, discriminator=lambda self, real, fake: fake.float().mean() - real.detach().float().mean()),
     "needed a gradient at the real logits that is not zero everywhere, got none"),
    (OwnNorms(), "two processes compute the same factor.*mean_over_processes"),
    (variant(Ratio, forward=lambda self, reconstruction, adversarial, layer:
             torch.autograd.grad(reconstruction, layer)[0].norm()),
     "the graphs of both losses stay.*give torch.autograd.grad retain_graph=True"),
    (variant(Ratio, forward=lambda self, reconstruction, adversarial, layer: reconstruction / adversarial),
     "needed a factor without a gradient, got one with; return factor.detach"),
    (MeanOfMeans(), "two updates count as one with the joined batch.*add sums and counts in float64"),
    (OneProcessOnly(), "two processes that share the data report what one does.*in process 0 the scores of all data"),
    (NeverForgets(), "resetting forgets everything.*set back all that update adds to in reset"),
    (ComputesOnce(), "computing changes nothing.*the same scores a second time"),
    (variant(Error, higher_is_better={"error": True}),
     "higher_is_better says which way.*a 'error' of a perfect reconstruction no worse.*got 0 and"),
    (variant(Error, higher_is_better={"mean_error": False}),
     r"higher_is_better names exactly the scores.*each of \['error'\], got {'mean_error': False}"),
    (variant(Error, compute=lambda self: {"error": torch.tensor(self.total)}),
     "needed a dict of floats, got .*tensor.*; return {name: tensor.item"),
    (variant(Error, compute=lambda self: {"error": float("inf")}), "needed finite scores"),
    (grey({"pixels": torch.zeros(3, 1, 4, 4, dtype=torch.uint8), "key": "grey"}),
     r"needed pixels \(C, T, H, W\) of torch.float32, got \(3, 1, 4, 4\) of torch.uint8; .*127.5"),
    (grey({"pixels": torch.full((3, 1, 4, 4), 255.0), "key": "grey"}),
     r"needed pixels in \[-1, 1\], got 255 to 255; convert by pixels / 127.5 - 1"),
    (grey({"pixels": torch.zeros(3, 1, 4, 4)}), r"got \['pixels'\]; return one from __getitem__"),
    (grey({"pixels": torch.zeros(3, 1, 4, 4), "key": 0}), "needed a key, a str that names the sample, got 0"),
    (grey({"pixels": torch.zeros(3, 4, 4), "key": "grey"}),
     r"got \(3, 4, 4\) of torch.float32; keep T = 1 for an image"),
    (grey({"pixels": torch.zeros(3, 2, 4, 4), "key": "grey"}),
     "needed one frame, as modality is 'image', got 2; set modality to 'video'"),
    (variant(Grey, modality="sound"), "needed modality 'image' or 'video', got 'sound'"),
    (variant(Grey, __getitem__=lambda self, index: {"pixels": torch.full((3, 1, 4, 4), 1 / next(DRAWS)), "key": "a"}),
     "under the same seed it gives the same samples.*draw from torch's global generator"),
    (variant(Dataset, modality="image"), "needed __len__ and __getitem__, or __iter__, got neither"),
    (variant(Grey, __getitem__=lambda self, index: Path("missing.png").read_bytes()),
     "its samples can be read.*got FileNotFoundError .*missing.png"),
], ids=lambda value: "" if isinstance(value, str) else type(value).__name__)
def test_violation_is_named(component, message):
    with pytest.raises(ContractViolation, match=f"(?s)^{type(component).__name__} fails the check .*{message}"):
        check(component)
