"""Checks of quantizers on one process; ``quantizer_training`` checks training and two processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.contracts import Quantizer, QuantizerOutput
from toolkit.contracts.quantizer import Grid
from toolkit.registry import QUANTIZERS
from toolkit.testing.checks import Check, Record, check_type, describe, is_count
from toolkit.testing.components import check_module, duplicate, seeded, tiny_latents
from toolkit.testing.quantizer_training import check_training, outputs, train

GRIDS = ((1, 1, 1), (1, 4, 4), (3, 2, 5))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_quantizer(quantizer: Quantizer, *, grids: Sequence[Grid] = GRIDS, dtypes: Sequence[torch.dtype] = DTYPES,
                    processes: Sequence[int] = (1, 2)) -> None:
    """Check that a quantizer meets its contract; raise ContractViolation if not.

    Attributes, config and messages; shapes and dtypes; exact codes of stored indices; indices decided in float32;
    gradients; losses; eval and frozen mode; saving; and two processes that train as one. A quantizer that draws random
    numbers in training is compared where they do not matter, a continuous bottleneck by what applies to it.

    Args:
        grids: Latent grids (t, h, w) to try; the last one should have several positions.
        dtypes: Of the latents.
        processes: With 2 among them, two real processes are started and train it.

    Example:
        >>> from toolkit.quantizers import VQ
        >>> check_quantizer(VQ(codebook_size=8, dim=4), processes=(1,))
    """
    def latents(grid: Grid = grids[-1], dtype: torch.dtype = torch.float32, **options: int) -> Tensor:
        return tiny_latents(dim=quantizer.dim, grid=grid, **options).to(dtype)

    with seeded(0):
        _check_attributes(quantizer)
        _check_refusals(quantizer)
        for grid, dtype, batch in itertools.product(grids, dtypes, (1, 3)):
            _check_shapes(quantizer, latents(grid, dtype, batch=batch))
        for size in (0, 100):
            _check_shapes(quantizer, size * latents(), shown=f"{size} times ")
        for dtype in dtypes:
            _check_gradient(quantizer, latents(dtype=dtype))
            _check_losses(quantizer, latents(dtype=dtype))
        trained = train(quantizer, grids[-1], seed=1)[0].eval()
        loaded = check_module(trained, QUANTIZERS, _results, latents(batch=4, seed=4))
        for grid, dtype in itertools.product(grids, dtypes):
            _check_stored_indices(trained, latents(grid, dtype, seed=1))
        for dtype in dtypes:  # many latents, since rounding changes the index of few
            _check_float32(trained, latents(dtype=dtype, batch=32, seed=5))
        _check_layouts(trained, latents(seed=3))
        check_training(quantizer, trained, loaded, grid=grids[-1], processes=processes)


def _check_attributes(quantizer: Quantizer) -> None:
    check_type(quantizer, Quantizer)
    with Check(quantizer, "dim, codebook_size, num_codebooks and digits say what it is",
               do="set them in the constructor, after super().__init__()") as checked:
        size, digits = quantizer.codebook_size, quantizer.digits
        checked.need_counts(quantizer, "dim", "num_codebooks")
        checked.need(type(size) is int and 0 <= size <= 2**63, got=f"{size!r}",
                     needed="codebook_size, an int of 1 to 2^63, or 0 for a continuous bottleneck",
                     do="set self.codebook_size to that of one codebook")
        fits = all(map(is_count, digits)) and math.prod(digits) == size
        checked.need(fits or size == 0, needed=f"digits, ints whose product is the codebook_size {size}",
                     got=f"{digits!r}", do="give the sizes of an index's digits, most significant first")
    with Check(quantizer, "loss_weights has the paper's weight of each loss") as checked:
        weights = quantizer.loss_weights
        checked.need(isinstance(weights, dict) and all(
            isinstance(name, str) and isinstance(weight, int | float) and not isinstance(weight, bool)
            and math.isfinite(weight) for name, weight in weights.items()),
            needed="a dict of names and finite numbers", got=f"{weights!r}", do="set loss_weights on the class")


def _check_refusals(quantizer: Quantizer) -> None:
    copied, dim = duplicate(quantizer).eval(), quantizer.dim
    with Check(quantizer, "latents that do not fit are refused") as checked:
        for shape in ((2, dim + 1, 1, 4, 4), (2, dim, 4, 4)):
            checked.need_refusal(lambda shape=shape: copied(torch.zeros(shape)), of=f"latents {shape}",
                                 do="let Quantizer.forward check them, or check them as it does")


@torch.no_grad()
def _check_shapes(quantizer: Quantizer, latents: Tensor, *, shown: str = "") -> None:
    for training in (False, True):
        copied, kept = duplicate(quantizer).train(training), latents.clone()
        where = f"{shown}latents {tuple(latents.shape)} of {latents.dtype} in {'training' if training else 'eval'}"
        with Check(quantizer, "codes have the latents' shape and dtype, and indices are (B, *positions, G) int64",
                   do="return codes (B, N, d), indices (B, N, G) and a dict from quantize") as checked:
            out = copied(kept)
            checked.need(isinstance(out, QuantizerOutput), needed="a QuantizerOutput", got=f"{type(out).__name__}",
                         do="return one from forward")
            checked.need(out.codes.shape == latents.shape and out.codes.dtype == latents.dtype,
                         needed=f"codes as the {where}", got=describe(out.codes),
                         do="return codes (B, N, d) from quantize, and cast them if forward is your own")
            checked.need_finite(out.codes, f"codes of the {where}")
            checked.need_untouched(kept, latents, "latents")
            if not quantizer.codebook_size:
                checked.need(out.indices is None, needed="indices None, as codebook_size is 0",
                             got=describe(out.indices), do="return None, or set codebook_size")
                continue
            expected = (len(latents), *quantizer.positions(tuple(latents.shape[2:])), quantizer.num_codebooks)
            checked.need(isinstance(out.indices, Tensor) and tuple(out.indices.shape) == expected
                         and out.indices.dtype == torch.int64,
                         needed=f"indices {expected} of torch.int64 for the {where}", got=describe(out.indices),
                         do="return indices (B, N, G) with .long() from quantize, let positions(grid) say what N is, "
                            "and set codebook_size = 0 if there are none")
        with Check(quantizer, "indices lie in [0, K)") as checked:
            low, high = int(out.indices.min()), int(out.indices.max())
            checked.need(0 <= low and high < quantizer.codebook_size, got=f"{low} to {high}",
                         needed=f"indices in [0, {quantizer.codebook_size}) for the {where}",
                         do="correct the index, or codebook_size, which is that of one codebook")


def _check_gradient(quantizer: Quantizer, latents: Tensor) -> None:
    copied, latents = duplicate(quantizer).train(), latents.clone().requires_grad_()
    with Check(quantizer, "the codes' gradient reaches the latents in training",
               do="return codes that depend on z in training, such as straight_through(z, codes)") as checked:
        gradient, = checked.need_gradient(copied(latents).codes, [latents], f"latents in {latents.dtype}")
        if latents.dtype == torch.float32:  # in less a small one may become zero
            reached = gradient.flatten(2).any(2)  # (B, d)
            checked.need(bool(reached.all()), needed="a gradient in every channel of every sample",
                         got=f"none in {int((~reached).sum())} of {reached.numel()}")


def _check_losses(quantizer: Quantizer, latents: Tensor) -> None:
    copied = duplicate(quantizer)
    with Check(quantizer, "losses are named float32 scalars in training") as checked:
        losses = copied.train()(latents.clone().requires_grad_()).losses
        checked.need(isinstance(losses, dict), needed="a dict of losses", got=f"{type(losses).__name__}",
                     do="return name -> loss from quantize, {} if there are none")
        for name, loss in losses.items():
            checked.need_scalar(loss, f"loss {name!r}")
            checked.need(loss.requires_grad, needed=f"a loss {name!r} with a gradient, to latents or parameters",
                         got="one cut off from any", do="detach one side of a distance, not both")
    with Check(quantizer, "each loss has a weight in loss_weights, and each weight a loss") as checked:
        checked.need(losses.keys() == quantizer.loss_weights.keys(),
                     needed=f"losses named as loss_weights, {sorted(quantizer.loss_weights)}", got=f"{sorted(losses)}",
                     do="give each loss that quantize returns in training its paper's weight, and no other")
    with Check(quantizer, "there are no losses in eval mode") as checked:
        losses = copied.eval()(latents).losses
        checked.need(losses == {}, needed="{}", got=f"{losses!r}", do="return losses only if self.training")


@torch.no_grad()
def _check_stored_indices(quantizer: Quantizer, latents: Tensor) -> None:
    grid, size = tuple(latents.shape[2:]), quantizer.codebook_size
    if size == 0:
        with Check(quantizer, "a continuous bottleneck has no codes of indices") as checked:
            checked.need_refusal(
                lambda: quantizer.codes_from_indices(torch.zeros(1, *grid, 1, dtype=torch.int64), grid),
                of="any indices", do="leave codes_from_indices to Quantizer")
        return
    out = quantizer(latents)
    with Check(quantizer, "codes_from_indices gives the evaluated codes exactly",
             do="let lookup (B, N, G) -> (B, N, d) return what quantize returns for these indices") as checked:
        codes = quantizer.codes_from_indices(out.indices, grid)
        checked.need(codes.shape == latents.shape and codes.dtype == torch.float32,
                     needed=f"codes {tuple(latents.shape)} of torch.float32",
                     got=describe(codes), do="return codes (B, N, d) float32 from lookup")
        checked.need_near({"codes": codes.to(latents.dtype)}, {"codes": out.codes}, rel=0, floor=0,
                          needed=f"for latents of {latents.dtype} the codes that forward returned",
                          do="compute codes in both by the same operations in float32, and read the index's digits in "
                             "the order in which quantize wrote them")
    with Check(quantizer, "every index in [0, K) has a code, and others are refused") as checked:
        for index in (0, size - 1):
            codes_of_one = quantizer.codes_from_indices(torch.full_like(out.indices, index), grid)
            checked.need_finite(codes_of_one, f"codes of index {index}", do="correct lookup")
        if size <= 2**31:
            small = quantizer.codes_from_indices(out.indices.int(), grid)
            checked.need(torch.equal(small, codes), needed="the same codes for indices stored as int32", got="others",
                         do="use indices.long()")
        for index in (-1, size) if size < 2**63 else (-1,):
            wrong = torch.full_like(out.indices, index)
            checked.need_refusal(lambda wrong=wrong: quantizer.codes_from_indices(wrong, grid),
                                 of=f"index {index}", do="leave codes_from_indices to Quantizer and write lookup")


@torch.no_grad()
def _check_float32(quantizer: Quantizer, latents: Tensor) -> None:
    dtype, expected = latents.dtype, outputs(quantizer(latents.float()))
    expected["codes"] = expected["codes"].to(dtype)
    with Check(quantizer, "indices are decided in float32", do="compute distances, digits and codes in float32 outside "
               "autocast, as Quantizer.forward does; leave forward to it") as checked:
        copied = duplicate(quantizer).float()
        with _HalfPrecision() as halves:
            copied(latents.float())
        checked.need(not halves.seen, needed="no operation in half precision on float32 latents",
                     got=", ".join(sorted(halves.seen)[:3]))
        for autocast in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                result = outputs(quantizer(latents))
            where = f"latents of {dtype}{' under autocast' * autocast}"
            checked.need_near(result, expected, needed=f"for {where} the result of the same values in float32")


class _HalfPrecision(TorchDispatchMode):
    """Records operations with results in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor) and tensor.dtype in (torch.float16, torch.bfloat16):
                self.seen.add(f"{operation} to {tensor.dtype}")
        return result


def _results(quantizer: Quantizer, latents: Tensor) -> Record:
    result = outputs(quantizer(latents))
    if "indices" in result:
        result["codes of the indices"] = quantizer.codes_from_indices(result["indices"], tuple(latents.shape[2:]))
    return result


@torch.no_grad()
def _check_layouts(quantizer: Quantizer, latents: Tensor) -> None:
    layouts = {"channels_last_3d": latents.contiguous(memory_format=torch.channels_last_3d),
               "transposed memory": latents.transpose(1, 4).contiguous().transpose(1, 4),
               "every other entry": latents.repeat_interleave(2, dim=4)[..., ::2]}
    expected = outputs(quantizer(latents))
    with Check(quantizer, "the latents' memory layout does not matter",
               do="use reshape or einops, never view, as_strided or the data's address") as checked:
        for name, layout in layouts.items():
            checked.need_near(outputs(quantizer(layout)), expected, needed=f"with {name} the result of contiguous "
                              "latents")
