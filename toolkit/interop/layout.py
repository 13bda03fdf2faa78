"""What every checkpoint family shares: reading sizes off the tensors, and matching them to our parts."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from toolkit.interop.files import CheckpointError, Tensors, _listed


class Layout(ABC):
    """The names of one family, for one checkpoint.

    A family says how our tensors are called in its files (:meth:`their_name`) and how a tensor of
    theirs becomes ours (:meth:`to_ours`); sizes are read off the tensors by majority, so that one
    that is renamed or reshaped does not mislead, and is then named by :meth:`weights_for`.

    Attributes:
        name: Of the layout.
        marks: A pattern that names of this family match, and few of others.
        tensors: The checkpoint's, by their own names.
        prefix: What these names begin with in the file, for messages.

    Example:
        >>> Layout.__abstractmethods__ == {"config", "their_name"}   # what a family writes
        True
    """

    name: ClassVar[str]
    marks: ClassVar[str]

    def __init__(self, tensors: Tensors, prefix: str = ""):
        self.tensors, self.prefix = tensors, prefix
        dims = Counter(tensor.ndim for tensor in tensors.values() if tensor.ndim >= 4)
        self.video = dims[5] > dims[4]

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The config of what the checkpoint holds."""

    @abstractmethod
    def their_name(self, ours: str) -> str:
        """The checkpoint's name for a tensor of ours."""

    def constants(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of buffers that must be there but carry nothing learned."""
        return {}

    def to_ours(self, ours: str, tensor: Tensor) -> Tensor:
        """A tensor of theirs as ours; images' kernels get a temporal axis."""
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
        """What most tensors say of a size.

        Args:
            what: The size's name in messages.
            claims: (our tensor, axis) of which each says it.
            per: What the axis is divided by.

        Raises:
            CheckpointError: If no tensor is there to say it, or they are evenly split.
        """
        claims = list(claims)
        said = {(ours, axis): side / per for ours, axis in claims if (side := self.size(ours, axis)) is not None}
        ranking = Counter(said.values()).most_common(2)
        if not ranking:
            raise CheckpointError(f"{self.name}: no tensor tells {what}; missing: "
                                  f"{_listed([self.prefix + self.their_name(ours) for ours, _ in claims])}.")
        if (len(ranking) > 1 and ranking[0][1] == ranking[1][1]) or not ranking[0][0].is_integer():
            names = dict.fromkeys(self.their_name(ours) for ours, _ in said)
            raise CheckpointError(f"{self.name}: tensors disagree on {what}: "
                                  + _listed([f"{self.prefix}{name} {tuple(self.tensors[name].shape)}"
                                             for name in names]) + ".")
        return int(ranking[0][0])

    def count(self, what: str, *patterns: tuple[str, int]) -> int:
        """How many there are of something, by majority over (pattern whose group is its number, what to add).

        Raises:
            CheckpointError: If nothing matches.
        """
        votes = Counter()
        for pattern, add in patterns:
            matches = (re.match(pattern, name) for name in self.tensors)
            if numbers := {match[1] for match in matches if match}:
                votes[len(numbers) + add] += 1
        if not votes:
            raise CheckpointError(f"{self.name}: the checkpoint has no {what}; it has "
                                  f"{_listed([self.prefix + name for name in self.tensors], 5)}.")
        return votes.most_common(1)[0][0]

    def first_width(self) -> int:
        """The encoder's first convolution's width, in networks of ours."""
        return self.read("the first convolution's width", [
            ("encoder.conv_in.weight", 0), ("encoder.conv_in.bias", 0), ("encoder.levels.0.blocks.0.norm1.weight", 0),
            ("encoder.levels.0.blocks.0.norm1.bias", 0), ("encoder.levels.0.blocks.0.conv1.weight", 1)])

    def weights_for(self, module: nn.Module) -> Tensors:
        """Our module's state from the checkpoint's tensors, each used once and none left over.

        Raises:
            CheckpointError: Naming every tensor that is missing, left over or of another shape.
        """
        state, wanted, reshaped = {}, dict(self.constants()), []
        names = {ours: self.their_name(ours) for ours in module.state_dict()}
        for ours, tensor in module.state_dict().items():
            wanted[names[ours]] = self.their_shape(ours, tuple(tensor.shape))
        for name, shape in wanted.items():
            if name in self.tensors and tuple(self.tensors[name].shape) != shape:
                reshaped.append(f"{self.prefix}{name} is {tuple(self.tensors[name].shape)}, needed is {shape}")
        missing = [self.prefix + name for name in wanted if name not in self.tensors]
        left_over = [self.prefix + name for name in self.tensors if name not in wanted]
        other_kind = [f"{self.prefix}{name} is {self.tensors[name].dtype}, needed is {tensor.dtype}"
                      for (ours, tensor) in module.state_dict().items() if (name := names[ours]) in self.tensors
                      and self.tensors[name].is_floating_point() != tensor.is_floating_point()]
        faults = [f"{what}: {_listed(named)}" for what, named in (
            ("missing in the checkpoint", missing), ("left over in the checkpoint", left_over),
            ("of another shape", reshaped), ("of another kind", other_kind)) if named]
        if faults:
            raise CheckpointError(f"the checkpoint is not wholly of layout {self.name}. " + ". ".join(faults) + ".")
        for ours, name in names.items():
            tensor = self.to_ours(ours, self.tensors[name])
            state[ours] = tensor.float().contiguous() if tensor.is_floating_point() else tensor
        return state


def translate(name: str, rules: Mapping[str, str]) -> str:
    """Apply regular expressions one after the other.

    Example:
        >>> translate("levels.2.downsample.bias", {r"levels\\.(\\d+)": r"down.\\1", "downsample": "conv"})
        'down.2.conv.bias'
    """
    for pattern, theirs in rules.items():
        name = re.sub(pattern, theirs, name)
    return name


def finest_first(ours: str, num_levels: int) -> str:
    """Our name, for a family whose decoder counts its levels from the finest as its encoder does.

    Example:
        >>> finest_first("decoder.levels.0.norm.gamma.weight", 3)
        'decoder.levels.2.norm.gamma.weight'
    """
    return re.sub(r"^decoder\.levels\.(\d+)", lambda level: f"decoder.levels.{num_levels - 1 - int(level[1])}", ours)


class MAGVIT2Layout(Layout):
    """A family with the MAGVIT-v2 network; it counts its levels and blocks, the rest is read here."""

    options: ClassVar[dict[str, Any]] = {}  # of both networks
    encoder_options: ClassVar[dict[str, Any]] = {}
    decoder_options: ClassVar[dict[str, Any]] = {}
    quantizer_options: ClassVar[dict[str, Any]] = {}
    num_levels: int
    num_res_blocks: int

    def config(self) -> dict[str, Any]:
        """The tokenizer's config, all of it read off the tensors but for the family's options."""
        levels = range(self.num_levels)
        mirrored = [self.num_levels - 1 - i for i in levels]
        filters = self.first_width()
        widths = [self.read(f"the width of level {i}", [
            (f"{part}.blocks.0.{tensor}", axis) for part in (f"encoder.levels.{i}", f"decoder.levels.{mirrored[i]}")
            for tensor, axis in (("conv1.weight", 0), ("norm2.weight", 0), ("norm2.bias", 0), ("conv2.weight", 0),
                                 ("conv2.weight", 1))]) for i in levels]
        bits = self.read("the number of bits", [
            ("encoder.conv_out.weight", 0), ("encoder.conv_out.bias", 0), ("decoder.conv_in.weight", 1),
            *((f"decoder.levels.{i}.norm.gamma.weight", 1) for i in levels)])
        channels = self.read("the number of image channels", [
            ("encoder.conv_in.weight", 1), ("decoder.conv_out.weight", 0), ("decoder.conv_out.bias", 0)])
        temporal_kernel = self.read("the temporal kernel", [
            ("encoder.conv_in.weight", 2), ("decoder.conv_in.weight", 2), ("decoder.conv_out.weight", 2),
            ("encoder.mid.0.conv1.weight", 2), ("decoder.mid.0.conv1.weight", 2)])
        halved = [self.read(f"the temporal stride of level {i}", [
            (f"decoder.levels.{mirrored[i + 1]}.upsample.conv.weight", 0),
            (f"decoder.levels.{mirrored[i + 1]}.upsample.conv.bias", 0)], per=4 * widths[i + 1]) == 2
            for i in levels[:-1]]
        if uneven := [width for width in widths if width % filters]:
            raise CheckpointError(f"{self.name}: widths {uneven} are no multiples of the first one, {filters}.")
        network = dict(filters=filters, channel_multipliers=tuple(width // filters for width in widths),
                       num_res_blocks=self.num_res_blocks, temporal_downsample=tuple(halved),
                       temporal_kernel=temporal_kernel, **self.options)
        return dict(
            encoder=dict(type="MAGVIT2Encoder", in_channels=channels, **network, **self.encoder_options),
            quantizer=dict(type="LFQ", bits=bits, **self.quantizer_options),
            decoder=dict(type="MAGVIT2Decoder", out_channels=channels, **network, **self.decoder_options))


class StyleGANLayout(Layout):
    """A StyleGAN discriminator of a family."""

    blur_padding: ClassVar[str]
    num_blocks: int

    def config(self) -> dict[str, Any]:
        """The discriminator's config but for its image channels.

        Its clip size is not in the tensors, only the grid's number of positions: 17 frames if they fit,
        else the fewest 1 + 4k that do, and square. A config that trains on another size states it.
        """
        filters = self.read("the discriminator's first width", [
            ("conv_in.weight", 0), ("conv_in.bias", 0), ("blocks.0.conv1.weight", 0), ("blocks.0.conv1.bias", 0)])
        widths = [self.read(f"the width of discriminator block {i}", [
            (f"blocks.{i}.conv2.weight", 0), (f"blocks.{i}.conv2.bias", 0), (f"blocks.{i}.shortcut.weight", 0)])
            for i in range(self.num_blocks)]
        positions = self.read("the discriminator's grid", [("linear1.weight", 1)], per=widths[-1])
        return dict(type="StyleGANDiscriminator", filters=filters, size=self._size(positions),
                    channel_multipliers=tuple(width // filters for width in widths), blur_padding=self.blur_padding,
                    temporal_kernel=3 if self.video else 1)

    def _size(self, positions: int) -> tuple[int, int, int]:
        for frames in (17, *range(1, 130, 4)) if self.video else (1,):
            grid = frames
            for _ in range(self.num_blocks if self.video else 0):
                grid = (grid + 1) // 2
            side = math.isqrt(positions // grid)
            if side * side * grid == positions and (frames > 1 or not self.video):
                return frames, side * 2**self.num_blocks, side * 2**self.num_blocks
        weight = self.their_name("linear1.weight")
        raise CheckpointError(f"{self.name}: {weight} is {tuple(self.tensors[weight].shape)}, but no square clip gives "
                              f"{positions} positions; convert without the discriminator (--no-discriminator).")
