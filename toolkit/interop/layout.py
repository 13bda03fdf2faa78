"""Checkpoint families whose tensors correspond to ours one by one: sizes from the tensors, names by a rule."""

from __future__ import annotations

import itertools
import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toolkit.build import build_component, build_tokenizer
from toolkit.contracts import CheckpointFamily
from toolkit.interop.files import CheckpointError, Tensors, shortened
from toolkit.registry import DISCRIMINATORS


def build(family: CheckpointFamily, config: Mapping[str, Any]) -> nn.Module:
    """What a family's config describes: a tokenizer or a discriminator."""
    return build_tokenizer(config) if family.component == "tokenizer" else build_component(DISCRIMINATORS, config)


class Layout(CheckpointFamily):
    """A family whose tensors correspond to ours one by one.

    A subclass sets :attr:`rules`, and writes :meth:`to_ours` where a tensor is stored otherwise. A family that joins or
    splits tensors overrides :meth:`config` and :meth:`state_dict`, and calls these with the tensors of this layout.
    Sizes are read from the tensors by majority, so that one tensor that is renamed or reshaped does not mislead;
    :meth:`state_dict` then names it.

    Attributes:
        marks: A pattern that names of this family match.
        rules: Pattern -> replacement, in order: they turn our name of a tensor into the checkpoint's.
        video_rules: More of them, of a family that wraps the layers of its 3-D networks.
        from_finest: Whether the checkpoint counts the decoder's levels from the finest, as the encoder's.
        tensors: Of the checkpoint that :meth:`bind` was called with.
        video: Whether most kernels are 3-D.

    Example:
        >>> sorted(Layout.__abstractmethods__)   # what a subclass writes
        ['component_config']
    """

    marks: ClassVar[str]
    rules: ClassVar[Mapping[str, str]] = {}
    video_rules: ClassVar[Mapping[str, str]] = {}
    from_finest: ClassVar[bool] = False
    tensors: Mapping[str, Tensor]
    video: bool
    num_levels: int = 0  # until they are counted

    def score(self, tensors: Mapping[str, Tensor], file_name: str) -> float:
        """The share of names that match :attr:`marks`."""
        return sum(bool(re.match(self.marks, name)) for name in tensors) / max(1, len(tensors))

    def config(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The component's config, read from the tensors."""
        return self.bind(tensors).component_config()

    def state_dict(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Our state dict by the name rule, with each tensor of the checkpoint used once.

        Raises:
            CheckpointError: Naming every tensor that is missing, left over or of another shape or kind.
        """
        bound = self.bind(tensors)
        with torch.device("meta"):  # names and shapes alone: a checkpoint that does not fit costs no memory
            ours = build(bound, bound.component_config()).state_dict()
        names = {key: bound.their_name(key) for key in ours}
        shapes = bound.constant_shapes() | {
            name: bound.their_shape(key, tuple(ours[key].shape)) for key, name in names.items()}
        missing = [name for name in shapes if name not in tensors]
        left_over = [name for name in tensors if name not in shapes]
        reshaped = [f"{name} is {tuple(tensors[name].shape)}, needed is {shape}" for name, shape in shapes.items()
                    if name in tensors and tuple(tensors[name].shape) != shape]
        other_kind = [f"{name} is {tensors[name].dtype}, needed is {ours[key].dtype}" for key, name in names.items()
                      if name in tensors and tensors[name].is_floating_point() != ours[key].is_floating_point()]
        problems = [f"{what}: {shortened(found)}" for what, found in (
            ("missing in the checkpoint", missing), ("left over in the checkpoint", left_over),
            ("of another shape", reshaped), ("of another kind", other_kind)) if found]
        if problems:
            raise CheckpointError(f"the checkpoint is not wholly of layout {self.type_name}. {'. '.join(problems)}.")
        state_dict = {key: bound.to_ours(key, tensors[name]) for key, name in names.items()}
        return {key: tensor.float().contiguous() if tensor.is_floating_point() else tensor
                for key, tensor in state_dict.items()}

    def constants(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Names and shapes of buffers that must be there but hold nothing learned."""
        return self.bind(tensors).constant_shapes()

    def bind(self, tensors: Mapping[str, Tensor]) -> Layout:
        """The layout of one checkpoint, with what :meth:`inspect` reads from its tensors."""
        bound = type(self)()
        bound.tensors = tensors
        dims = Counter(tensor.ndim for tensor in tensors.values() if tensor.ndim >= 4)
        bound.video = dims[5] > dims[4]
        bound.inspect()
        return bound

    def inspect(self) -> None:
        """Count levels and blocks in :attr:`tensors`, on which names depend."""

    @abstractmethod
    def component_config(self) -> dict[str, Any]:
        """The config of what the bound checkpoint holds."""

    def their_name(self, ours: str) -> str:
        """The checkpoint's name for a tensor of ours, by the rules."""
        if self.from_finest and self.num_levels:
            ours = re.sub(r"(?<=^decoder\.levels\.)\d+", lambda level: str(self.num_levels - 1 - int(level[0])), ours)
        for pattern, theirs in (self.rules | self.video_rules if self.video else self.rules).items():
            ours = re.sub(pattern, theirs, ours)
        return ours

    def constant_shapes(self) -> dict[str, tuple[int, ...]]:
        """As :meth:`constants`, of the bound checkpoint."""
        return {}

    def to_ours(self, ours: str, tensor: Tensor) -> Tensor:
        """Their tensor as ours; 2-D kernels get a temporal axis."""
        return tensor.unsqueeze(2) if tensor.ndim == 4 else tensor

    def their_shape(self, ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that a tensor of ours has in the checkpoint."""
        return shape if self.video or len(shape) != 5 else shape[:2] + shape[3:]

    def size(self, ours: str, axis: int) -> int | None:
        """A side of one of our tensors, or None if the checkpoint does not have it."""
        tensor = self.tensors.get(self.their_name(ours))
        if tensor is None:
            return None
        shape = self.to_ours(ours, tensor).shape
        return shape[axis] if axis < len(shape) else None

    def read(self, what: str, claims: Iterable[tuple[str, int]], per: int = 1) -> int:
        """A size by majority over (our tensor, axis), each side divided by ``per``; ``what`` names it in errors."""
        claims = list(claims)
        sizes = {(ours, axis): side / per for ours, axis in claims if (side := self.size(ours, axis)) is not None}
        ranking = Counter(sizes.values()).most_common(2)
        if not ranking:
            raise CheckpointError(f"{self.type_name}: no tensor tells {what}; missing: "
                                  f"{shortened([self.their_name(ours) for ours, _ in claims])}.")
        if (len(ranking) > 1 and ranking[0][1] == ranking[1][1]) or not ranking[0][0].is_integer():
            names = dict.fromkeys(self.their_name(ours) for ours, _ in sizes)
            raise CheckpointError(f"{self.type_name}: tensors disagree on {what}: " + shortened(
                [f"{name} {tuple(self.tensors[name].shape)}" for name in names]) + ".")
        return int(ranking[0][0])

    def count(self, what: str, *claims: tuple[str, int]) -> int:
        """A number by majority over (our name with * for an index, what to add to the number of such tensors)."""
        votes = Counter()
        for ours, add in claims:
            assert "*" in ours, f"{type(self).__name__}.count needs a name with *, got {ours!r}"
            names = (self.their_name(ours.replace("*", str(i))) for i in itertools.count())
            if number := next(i for i, name in enumerate(names) if name not in self.tensors):
                votes[number + add] += 1
        if not votes:
            raise CheckpointError(f"{self.type_name}: the checkpoint has no {what}; it has "
                                  f"{shortened(list(self.tensors), 5)}.")
        return votes.most_common(1)[0][0]

    def first_width(self) -> int:
        """The width of the encoder's first convolution."""
        return self.read("the first convolution's width", [
            ("encoder.conv_in.weight", 0), ("encoder.conv_in.bias", 0), ("encoder.levels.0.blocks.0.norm1.weight", 0),
            ("encoder.levels.0.blocks.0.norm1.bias", 0), ("encoder.levels.0.blocks.0.conv1.weight", 1)])

    def image_channels(self) -> int:
        """C of the networks."""
        return self.read("the number of image channels", [
            ("encoder.conv_in.weight", 1), ("decoder.conv_out.weight", 0), ("decoder.conv_out.bias", 0)])

    def level_widths(self, *claims: tuple[str, int]) -> list[int]:
        """The width of each level, finest first, by (tensor of its first block, axis) in encoder and decoder."""
        return [self.read(f"the width of level {i}", [
            (f"{level}.blocks.0.{tensor}", axis) for tensor, axis in claims
            for level in (f"encoder.levels.{i}", f"decoder.levels.{self.num_levels - 1 - i}")])
            for i in range(self.num_levels)]


class MAGVIT2Layout(Layout):
    """A family with the MAGVIT-v2 network."""

    options: ClassVar[dict[str, Any]] = {}  # of both networks
    encoder_options: ClassVar[dict[str, Any]] = {}
    decoder_options: ClassVar[dict[str, Any]] = {}
    quantizer_options: ClassVar[dict[str, Any]] = {}
    num_res_blocks: int = 0  # until they are counted

    def inspect(self) -> None:
        """Count levels and the residual blocks of each."""
        self.num_levels = self.count("levels", *(
            (f"{layer}.{kind}", add) for kind in ("weight", "bias") for layer, add in (
                ("encoder.levels.*.downsample", 1), ("decoder.levels.*.upsample.conv", 1),
                ("decoder.levels.*.norm.gamma", 0), ("decoder.levels.*.norm.beta", 0))))
        self.num_res_blocks = self.count("residual blocks", *(
            (f"{network}.mid.*.{layer}.weight", 0) for network in ("encoder", "decoder")
            for layer in ("norm1", "conv1", "norm2", "conv2")))

    def num_bits(self) -> int:
        """Bits of a code."""
        return self.read("the number of bits", [
            ("encoder.conv_out.weight", 0), ("encoder.conv_out.bias", 0), ("decoder.conv_in.weight", 1),
            *((f"decoder.levels.{i}.norm.gamma.weight", 1) for i in range(self.num_levels))])

    def component_config(self) -> dict[str, Any]:
        """The tokenizer's config, read from the tensors but for the family's options."""
        levels, filters = range(self.num_levels), self.first_width()
        widths = self.level_widths(("conv1.weight", 0), ("norm2.weight", 0), ("norm2.bias", 0), ("conv2.weight", 0),
                                   ("conv2.weight", 1))
        temporal_kernel = self.read("the temporal kernel", [
            ("encoder.conv_in.weight", 2), ("decoder.conv_in.weight", 2), ("decoder.conv_out.weight", 2),
            ("encoder.mid.0.conv1.weight", 2), ("decoder.mid.0.conv1.weight", 2)])
        halved = [self.read(f"the temporal stride of level {i}", [
            (f"decoder.levels.{levels[-1] - i - 1}.upsample.conv.{kind}", 0) for kind in ("weight", "bias")],
            per=4 * widths[i + 1]) == 2 for i in levels[:-1]]
        if uneven := [width for width in widths if width % filters]:
            raise CheckpointError(f"{self.type_name}: widths {uneven} are not multiples of the first one, {filters}.")
        network = dict(filters=filters, channel_multipliers=tuple(width // filters for width in widths),
                       num_res_blocks=self.num_res_blocks, temporal_downsample=tuple(halved),
                       temporal_kernel=temporal_kernel, **self.options)
        return dict(
            encoder=dict(type="MAGVIT2Encoder", in_channels=self.image_channels(), **network, **self.encoder_options),
            quantizer=dict(type="LFQ", bits=self.num_bits(), **self.quantizer_options),
            decoder=dict(type="MAGVIT2Decoder", out_channels=self.image_channels(), **network, **self.decoder_options))


class StyleGANLayout(Layout):
    """A family with the StyleGAN discriminator."""

    component = "discriminator"
    blur_padding: ClassVar[str]
    num_blocks: int

    def inspect(self) -> None:
        """Count the residual blocks."""
        self.num_blocks = self.count("blocks", *((f"blocks.*.{tensor}", 0) for tensor in (
            "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "shortcut.weight")))

    def component_config(self) -> dict[str, Any]:
        """The discriminator's config.

        Its clip size is not in the tensors, only the grid's number of positions: 17 frames if they fit,
        else the fewest 1 + 4k that do, and square. A config that trains on another size states it.
        """
        filters = self.read("the discriminator's first width", [
            ("conv_in.weight", 0), ("conv_in.bias", 0), ("blocks.0.conv1.weight", 0), ("blocks.0.conv1.bias", 0)])
        widths = [self.read(f"the width of discriminator block {i}", [
            (f"blocks.{i}.conv2.weight", 0), (f"blocks.{i}.conv2.bias", 0), (f"blocks.{i}.shortcut.weight", 0)])
            for i in range(self.num_blocks)]
        positions = self.read("the discriminator's grid", [("linear1.weight", 1)], per=widths[-1])
        channels = self.read("the discriminator's image channels", [("conv_in.weight", 1)])
        return dict(type="StyleGANDiscriminator", in_channels=channels, filters=filters, size=self._size(positions),
                    channel_multipliers=tuple(width // filters for width in widths), blur_padding=self.blur_padding,
                    temporal_kernel=3 if self.video else 1)

    def _size(self, positions: int) -> tuple[int, int, int]:
        for frames in (17, *range(5, 130, 4)) if self.video else (1,):
            grid = -(-frames // 2**self.num_blocks)  # halved and rounded up in each block
            side = math.isqrt(positions // grid)
            if side * side * grid == positions:
                return frames, side * 2**self.num_blocks, side * 2**self.num_blocks
        weight = self.their_name("linear1.weight")
        raise CheckpointError(f"{self.type_name}: {weight} is {tuple(self.tensors[weight].shape)}, but no square clip "
                              f"gives {positions} positions; convert without the discriminator (--no-discriminator).")
