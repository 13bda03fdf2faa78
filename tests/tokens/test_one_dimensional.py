"""A tokenizer whose latents are a sequence: extracted, decoded and reconstructed like any other."""

from __future__ import annotations

import pytest
import torch
from plugins_of_tests.one_dimensional.toolkit_one_dimensional import OneDimensionalDecoder, OneDimensionalEncoder
from tokens.test_extraction import HASH, extract, tokens_in

from toolkit.contracts import DataError
from toolkit.data import read_image
from toolkit.data.reading.files import find_files
from toolkit.quantizers import FSQ
from toolkit.reconstruction import reconstruct_files
from toolkit.tokenizer import Tokenizer
from toolkit.tokens import decode_tokens


class Sequence(FSQ):
    """FSQ whose indices are (B, N, G)."""

    def positions(self, grid):
        return (grid[0] * grid[1] * grid[2],)


@pytest.mark.parametrize(("quantizer", "positions"), [(FSQ, (1, 1, 5)), (Sequence, (5,))])
def test_one_dimensional_tokenizer_extracts_decodes_and_reconstructs(folder, tmp_path, quantizer, positions):
    tokenizer = Tokenizer(OneDimensionalEncoder(), quantizer(levels=[4] * 4), OneDimensionalDecoder()).eval()
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
