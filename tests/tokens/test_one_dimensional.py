"""A tokenizer whose latents are a sequence: extracted, decoded and reconstructed like any other."""

from __future__ import annotations

import pytest
import torch
from tokens.test_extraction import HASH, extract, tokens_in
from torch import nn

from toolkit.contracts import DataError, Decoder, Encoder
from toolkit.data import read_image
from toolkit.data.reading.files import find_files
from toolkit.quantizers import FSQ
from toolkit.reconstruction import reconstruct_files
from toolkit.tokenizer import Tokenizer
from toolkit.tokens import decode_tokens


class ToOneDimension(Encoder):
    """Images up to 16 x 16 to five latents without a grid."""

    in_channels, out_channels, stride, first_frame_alone, causal = 3, 3, (1, 16, 16), True, False

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3 * 16 * 16, 5 * 3)

    def fitting_size(self, size):
        if size[0] != 1 or max(size) > 16:
            raise ValueError(f"ToOneDimension takes images up to 16 x 16, got {size}.")
        return 1, 16, 16

    def grid(self, size):
        self.fitting_size(size)
        return 1, 1, 5

    def forward(self, pixels, cache=None):
        return self.mix(pixels.flatten(1)).reshape(-1, 3, 1, 1, 5)


class FromOneDimension(Decoder):
    in_channels, out_channels, stride, first_frame_alone, causal = 3, 3, (1, 16, 16), True, False

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(5 * 3, 3 * 16 * 16)

    @property
    def last_layer(self):
        return self.mix.weight

    def pixel_size(self, grid):
        return 1, 16, 16

    def forward(self, codes, cache=None):
        return self.mix(codes.flatten(1)).reshape(-1, 3, 1, 16, 16)


class Sequence(FSQ):
    """FSQ whose indices are (B, N, G)."""

    def positions(self, grid):
        return (grid[0] * grid[1] * grid[2],)


@pytest.mark.parametrize(("quantizer", "positions"), [(FSQ, (1, 1, 5)), (Sequence, (5,))])
def test_one_dimensional_tokenizer_extracts_decodes_and_reconstructs(folder, tmp_path, quantizer, positions):
    tokenizer = Tokenizer(ToOneDimension(), quantizer(levels=[4, 4, 4]), FromOneDimension()).eval()
    summary = extract(tokenizer, folder, tmp_path / "tokens", short_edge=12)
    tokens = tokens_in(tmp_path / "tokens")
    assert {source: indices.shape for source, (indices, _) in tokens.items()} == {
        source: (*positions, 1) for source in ("a.jpg", "a.png", "b.v2.png", "deep.er/d.png")}
    assert [source for source, _ in summary.unreadable] == ["0.mp4", "c.png"]  # a clip, and 24 columns
    assert all("takes images up to 16 x 16" in reason for _, reason in summary.unreadable)
    assert decode_tokens(tokenizer, tmp_path / "tokens", tokenizer_hash=HASH, output=tmp_path / "decoded") == 4
    files = find_files(folder, output=tmp_path / "wanted")
    results = dict(reconstruct_files(tokenizer, files, short_edge=12))
    sizes = {file.name: result.tokens for file, result in results.items() if not isinstance(result, DataError)}
    assert sizes == dict.fromkeys(("a.jpg", "a.png", "b.v2.png", "d.png"), (*positions, 1))
    for name in ("a.png", "deep.er/d"):
        one, other = (read_image(tmp_path / kind / f"{name}_reconstruction.png") for kind in ("decoded", "wanted"))
        assert torch.equal(one, other)
