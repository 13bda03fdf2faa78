"""Checks of quantizers on one process; ``quantizer_training`` checks training and two processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.contracts import Quantizer, QuantizerOutput
from toolkit.contracts.quantizer import Grid
from toolkit.registry import QUANTIZERS
from toolkit.testing.checks import Check, check, check_type, describe
from toolkit.testing.components import check_modes, duplicate, is_count, near, rebuild, seeded, tiny_latents
from toolkit.testing.quantizer_training import (
    check_frozen,
    check_loading,
    check_processes,
    check_seeding,
    training_steps,
)

GRIDS = ((1, 1, 1), (1, 4, 4), (3, 2, 5))
_SHAPES = "codes have the latents' shape and dtype, and indices are (B, *positions, G) int64"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_quantizer(quantizer: Quantizer, *, grids: Sequence[Grid] = GRIDS, dtypes: Sequence[torch.dtype] = DTYPES,
                    processes: Sequence[int] = (1, 2)) -> None:
    """Check that a quantizer meets its contract; raise ContractViolation if not.

    Attributes, config and messages; shapes and dtypes; exact codes of stored indices; indices decided in
    float32; gradients; losses; eval and frozen mode; saving; and two processes that train as one. A quantizer
    that draws random numbers in training is compared where they do not matter, a continuous bottleneck by what
    applies to it.

    Args:
        grids: Latent grids (t, h, w) to try; the last one should have several positions.
        dtypes: Of the latents.
        processes: With 2 among them, two real processes are started and train it.

    Example:
        >>> from toolkit.quantizers import VQ
        >>> check_quantizer(VQ(codebook_size=8, dim=4), processes=(1,))
    """
    with seeded(0):
        _check_attributes(quantizer)
        rebuild(quantizer, QUANTIZERS)
        _check_refusals(quantizer)
        for grid in grids:
            for dtype in dtypes:
                for batch in (1, 3):
                    _check_shapes(quantizer, tiny_latents(dim=quantizer.dim, batch=batch, grid=grid).to(dtype))
        for size in (0, 100):
            _check_shapes(quantizer, size * tiny_latents(dim=quantizer.dim, grid=grids[-1]), shown=f"{size} times ")
        for dtype in dtypes:
            _check_gradient(quantizer, tiny_latents(dim=quantizer.dim, grid=grids[-1]).to(dtype))
            _check_losses(quantizer, tiny_latents(dim=quantizer.dim, grid=grids[-1]).to(dtype))
        trained = _trained(quantizer, grids[-1])
        _check_eval(trained, tiny_latents(dim=quantizer.dim, grid=grids[-1], seed=2))
        for grid in grids:
            for dtype in dtypes:
                _check_stored_indices(trained, tiny_latents(dim=quantizer.dim, grid=grid, seed=1).to(dtype))
        _check_precision(trained, tiny_latents(dim=quantizer.dim, grid=grids[-1], seed=6))
        _check_float32(trained, grids[-1], dtypes)
        _check_layouts(trained, tiny_latents(dim=quantizer.dim, grid=grids[-1], seed=3))
        _check_batch(trained, tiny_latents(dim=quantizer.dim, grid=grids[-1], batch=4, seed=4))
        check_frozen(quantizer, grids[-1])
        check_seeding(quantizer, grids[-1])
        check_loading(quantizer, grids[-1])
        if 2 in processes:
            check_processes(quantizer, grids[-1])


def _check_attributes(quantizer: Quantizer) -> None:
    check_type(quantizer, Quantizer)
    with check(quantizer, "dim, codebook_size, num_codebooks and digits say what it is",
             do="set them in the constructor, after super().__init__()") as checked:
        dim, size, books = quantizer.dim, quantizer.codebook_size, quantizer.num_codebooks
        checked.need(is_count(dim), needed="dim, an int from 1 on", got=f"{dim!r}", do="set self.dim")
        checked.need(type(size) is int and 0 <= size <= 2**63, got=f"{size!r}",
                     needed="codebook_size, an int from 1 to 2^63, or 0 for a continuous bottleneck",
                     do="set self.codebook_size to that of one codebook")
        checked.need(is_count(books), needed="num_codebooks, an int from 1 on", got=f"{books!r}",
                     do="set self.num_codebooks")
        digits = quantizer.digits
        fits = all(map(is_count, digits)) and math.prod(digits) == size
        checked.need(fits or size == 0, needed=f"digits, ints whose product is the codebook_size {size}",
                     got=f"{digits!r}", do="give the sizes of an index's digits, most significant first")
    with check(quantizer, "loss_weights has the paper's weight of each loss") as checked:
        weights = quantizer.loss_weights
        checked.need(isinstance(weights, dict) and all(
            isinstance(name, str) and isinstance(weight, int | float) and not isinstance(weight, bool)
            and math.isfinite(weight) for name, weight in weights.items()),
            needed="a dict of names and finite numbers", got=f"{weights!r}", do="set loss_weights on the class")


def _check_refusals(quantizer: Quantizer) -> None:
    copied, dim = duplicate(quantizer).eval(), quantizer.dim
    with check(quantizer, "latents that do not fit are refused") as checked:
        for shape in ((2, dim + 1, 1, 4, 4), (2, dim, 4, 4)):
            checked.need_refusal(lambda shape=shape: copied(torch.zeros(shape)), of=f"latents {shape}",
                                 do="let Quantizer.forward check them, or check them as it does")


def _forward(quantizer: Quantizer, latents: Tensor) -> QuantizerOutput:
    """The quantizer's output, without gradients."""
    with torch.no_grad():
        return quantizer(latents)


def _check_shapes(quantizer: Quantizer, latents: Tensor, *, shown: str = "") -> None:
    grid, batch = tuple(latents.shape[2:]), len(latents)
    where = f"{shown}latents {tuple(latents.shape)} of {latents.dtype}"
    for training in (False, True):
        copied, mode = duplicate(quantizer).train(training), "training" if training else "eval"
        copy = latents.clone()
        with check(quantizer, _SHAPES,
                 do="return codes (B, N, d), indices (B, N, G) and a dict from quantize") as checked:
            out = _forward(copied, copy)
            checked.need(isinstance(out, QuantizerOutput), needed="a QuantizerOutput", got=f"{type(out).__name__}",
                         do="return one from forward")
            checked.need(out.codes.shape == latents.shape and out.codes.dtype == latents.dtype,
                         needed=f"codes as the {where} in {mode}", got=describe(out.codes),
                         do="return codes (B, N, d) from quantize, and cast them if forward is your own")
            checked.need_finite(out.codes, f"codes of the {where} in {mode}", do="look for a division by zero")
            checked.need(torch.equal(copy, latents), needed="latents that are left as they were",
                         got="changed ones", do="use no in-place operation on the input")
        if quantizer.codebook_size == 0:
            with check(quantizer, "a continuous bottleneck has no indices") as checked:
                checked.need(out.indices is None, needed="indices None, as codebook_size is 0",
                             got=f"{type(out.indices).__name__}", do="return None, or set codebook_size")
        else:
            _check_indices(quantizer, out.indices, batch=batch, grid=grid, where=f"the {where} in {mode}")


def _check_indices(quantizer: Quantizer, indices: Tensor | None, *, batch: int, grid: Grid, where: str) -> None:
    with check(quantizer, _SHAPES) as checked:
        checked.need(isinstance(indices, Tensor), needed=f"a tensor of indices of {where}", got=f"{indices!r}",
                     do="return them from quantize, or set codebook_size = 0 if there are none")
        expected = (batch, *quantizer.positions(grid), quantizer.num_codebooks)
        checked.need(tuple(indices.shape) == expected and indices.dtype == torch.int64,
                     needed=f"indices {expected} of torch.int64 for {where}",
                     got=describe(indices),
                     do="return indices (B, N, G) with .long() from quantize, and let positions(grid) say what N is")
    with check(quantizer, "indices lie in [0, K)") as checked:
        low, high = int(indices.min()), int(indices.max())
        checked.need(0 <= low and high < quantizer.codebook_size,
                     needed=f"indices in [0, {quantizer.codebook_size}) for {where}", got=f"{low} to {high}",
                     do="correct the index, or codebook_size, which is that of one codebook")


def _check_gradient(quantizer: Quantizer, latents: Tensor) -> None:
    copied, latents = duplicate(quantizer).train(), latents.clone().requires_grad_()
    do = "return codes that depend on z in training, such as straight_through(z, codes)"
    with check(quantizer, "the codes' gradient reaches the latents in training", do=do) as checked:
        codes = copied(latents).codes
        checked.need(codes.requires_grad, needed="codes with a gradient", got="codes cut off from any", do=do)
        pull = tiny_latents(dim=quantizer.dim, grid=tuple(codes.shape[2:]))
        gradient, = torch.autograd.grad((codes.float() * pull).sum(), latents, allow_unused=True)
        checked.need(gradient is not None and bool(gradient.any()), needed="a gradient that is not zero everywhere",
                     got="none" if gradient is None else "zeros", do=do)
        checked.need_finite(gradient, f"gradients for {latents.dtype}",
                            do="look for a division by zero or the root of zero")
        if latents.dtype == torch.float32:  # in less a small one may become zero
            reached = gradient.flatten(2).any(2)  # (B, d)
            checked.need(bool(reached.all()), needed="a gradient in every channel of every sample",
                         got=f"none in {int((~reached).sum())} of {reached.numel()}", do=do)


def _check_losses(quantizer: Quantizer, latents: Tensor) -> None:
    copied = duplicate(quantizer)
    with check(quantizer, "losses are named float32 scalars in training") as checked:
        losses = copied.train()(latents.clone().requires_grad_()).losses
        checked.need(isinstance(losses, dict), needed="a dict of losses", got=f"{type(losses).__name__}",
                     do="return name -> loss from quantize, {} if there are none")
        for name, loss in losses.items():
            checked.need_scalar(loss, f"loss {name!r}")
            checked.need(loss.requires_grad, needed=f"a loss {name!r} with a gradient, to latents or parameters",
                         got="one cut off from any", do="detach one side of a distance, not both")
    with check(quantizer, "each loss has a weight in loss_weights, and each weight a loss") as checked:
        checked.need(losses.keys() == quantizer.loss_weights.keys(),
                     needed=f"losses named as loss_weights, {sorted(quantizer.loss_weights)}", got=f"{sorted(losses)}",
                     do="give each loss that quantize returns in training its paper's weight, and no other")
    with check(quantizer, "there are no losses in eval mode") as checked:
        losses = copied.eval()(latents).losses
        checked.need(losses == {}, needed="{}", got=f"{losses!r}", do="return losses only if self.training")


def _trained(quantizer: Quantizer, grid: Grid) -> Quantizer:
    """A copy in eval mode after a few training steps, so that running values differ from their initial ones."""
    copied = duplicate(quantizer).train()
    with check(quantizer, "it can be trained"), seeded(1):
        training_steps(copied, [tiny_latents(dim=copied.dim, batch=4, grid=grid, seed=seed) for seed in range(3)])
    return copied.eval()


def _check_stored_indices(quantizer: Quantizer, latents: Tensor) -> None:
    grid = tuple(latents.shape[2:])
    if quantizer.codebook_size == 0:
        with check(quantizer, "a continuous bottleneck has no codes of indices") as checked:
            checked.need_refusal(
                lambda: quantizer.codes_from_indices(torch.zeros(1, *grid, 1, dtype=torch.int64), grid),
                of="any indices", do="leave codes_from_indices to Quantizer")
        return
    out = _forward(quantizer, latents)
    with check(quantizer, "codes_from_indices gives the evaluated codes exactly",
             do="let lookup (B, N, G) -> (B, N, d) return what quantize returns for these indices") as checked:
        codes = quantizer.codes_from_indices(out.indices, grid)
        checked.need(codes.shape == latents.shape and codes.dtype == torch.float32,
                     needed=f"codes {tuple(latents.shape)} of torch.float32",
                     got=describe(codes), do="return codes (B, N, d) float32 from lookup")
        wrong = codes.to(latents.dtype) != out.codes
        checked.need(not bool(wrong.any()), needed=f"for latents of {latents.dtype} the codes that forward returned",
                     got=f"others in {int(wrong.sum())} of {wrong.numel()} entries",
                     do="compute codes in both by the same operations in float32, and read the index's digits in the "
                        "order in which quantize wrote them")
    _check_any_indices(quantizer, out.indices, grid)


def _check_any_indices(quantizer: Quantizer, indices: Tensor, grid: Grid) -> None:
    """Look up the first and the last index, int32 indices, and indices out of range."""
    with check(quantizer, "every index in [0, K) has a code, and others are refused") as checked:
        for index in (0, quantizer.codebook_size - 1):
            codes = quantizer.codes_from_indices(torch.full_like(indices, index), grid)
            checked.need_finite(codes, f"codes of index {index}", do="correct lookup")
        if quantizer.codebook_size <= 2**31:
            small = quantizer.codes_from_indices(indices.int(), grid)
            checked.need(torch.equal(small, quantizer.codes_from_indices(indices, grid)),
                         needed="the same codes for indices stored as int32", got="others", do="use indices.long()")
        beyond = [-1] + [quantizer.codebook_size] * (quantizer.codebook_size < 2**63)
        for index in beyond:
            wrong = torch.full_like(indices, index)
            checked.need_refusal(lambda wrong=wrong: quantizer.codes_from_indices(wrong, grid),
                                 of=f"index {index}", do="leave codes_from_indices to Quantizer and write lookup")


def _check_float32(quantizer: Quantizer, grid: Grid, dtypes: Sequence[torch.dtype]) -> None:
    """Compare many latents, since rounding changes the index of few."""
    do = "compute in float32 outside autocast, as Quantizer.forward does; leave forward to it"
    for dtype in dtypes:
        latents = tiny_latents(dim=quantizer.dim, batch=32, grid=grid, seed=5).to(dtype)
        expected = _forward(quantizer, latents.float())
        with check(quantizer, "indices are decided in float32") as checked:
            outputs = {f"latents of {dtype}": _forward(quantizer, latents)}
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs |= {f"latents of {dtype} under autocast": _forward(quantizer, latents)}
            for where, out in outputs.items():
                _need_equal(checked, out, expected, dtype, do=do,
                            needed=f"for {where} the result of the same values in float32")


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


def _check_precision(quantizer: Quantizer, latents: Tensor) -> None:
    quantizer = duplicate(quantizer).float()
    with check(quantizer, "indices are decided in float32") as checked:
        with _HalfPrecision() as halves:
            _forward(quantizer, latents)
        checked.need(not halves.seen, needed="no operation in half precision on float32 latents",
                     got=", ".join(sorted(halves.seen)[:3]),
                     do="compute distances, digits and codes in float32, outside autocast")


def _need_equal(checked: Check, out: QuantizerOutput, expected: QuantizerOutput, dtype: torch.dtype, *, needed: str,
                do: str) -> None:
    if expected.indices is not None:
        wrong = out.indices != expected.indices
        checked.need(not bool(wrong.any()), needed=needed,
                     got=f"other indices at {int(wrong.sum())} of {wrong.numel()} places", do=do)
    checked.need(near(out.codes.float(), expected.codes.to(dtype).float()), needed=needed, got="other codes", do=do)


def _check_eval(quantizer: Quantizer, latents: Tensor) -> None:
    def outputs(copied: Quantizer) -> Tensor:
        out = copied(latents)
        if out.indices is None:
            return out.codes
        copied.codes_from_indices(out.indices, tuple(latents.shape[2:]))
        return torch.cat([out.codes.flatten().double(), out.indices.flatten().double()])

    check_modes(quantizer, outputs)


def _check_layouts(quantizer: Quantizer, latents: Tensor) -> None:
    expected = _forward(quantizer, latents)
    layouts: dict[str, Callable[[], Tensor]] = {
        "channels_last_3d": lambda: latents.contiguous(memory_format=torch.channels_last_3d),
        "transposed memory": lambda: latents.transpose(1, 4).contiguous().transpose(1, 4),
        "every other entry": lambda: latents.repeat_interleave(2, dim=4)[..., ::2],
    }
    for name, layout in layouts.items():
        with check(quantizer, "the latents' memory layout does not matter",
                 do="use reshape or einops, which view does not replace") as checked:
            _need_equal(checked, _forward(quantizer, layout()), expected, latents.dtype,
                        needed=f"with {name} the result of contiguous latents", do="use reshape or einops, never "
                        "as_strided or the data's address")


def _check_batch(quantizer: Quantizer, latents: Tensor) -> None:
    do = "use no statistic of the batch in eval mode; keep running ones from training as buffers"
    with check(quantizer, "in eval mode a sample's result does not depend on the rest of its batch") as checked:
        joined = _forward(quantizer, latents)
        for number in range(len(latents)):
            others = 10 * latents + 3
            others[number] = latents[number]
            outputs = {"alone": _pick(_forward(quantizer, latents[number:number + 1]), 0),
                     "among others": _pick(_forward(quantizer, others), number)}
            for name, out in outputs.items():
                _need_equal(checked, out, _pick(joined, number), latents.dtype,
                            needed=f"for sample {number} {name} the result it has in a batch", do=do)


def _pick(out: QuantizerOutput, number: int) -> QuantizerOutput:
    """The output of one sample."""
    share = slice(number, number + 1)
    return QuantizerOutput(out.codes[share], None if out.indices is None else out.indices[share])
