"""Committed weights give the committed tokens of a clip that is a formula, on every machine."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import synthetic_clip
import torch
from PIL import Image

from toolkit import load_tokenizer
from toolkit.tokens import decode_tokens, extract_tokens, read_tokens, tokenizer_hash

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GOLDEN = Path(__file__).parent / "golden" / "tokens"
CLIP = synthetic_clip.frames(1, num_frames=9, height=24, width=32)
SAMPLES = {"clip": CLIP, "image": CLIP[4:5]}
BITS = 8


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN)


@pytest.fixture(scope="module")
def stored():
    """Name -> indices (t, h, w, 1), metadata."""
    return {key: (np.array(indices), meta) for key, indices, meta in read_tokens(GOLDEN / "tokens-000000.tar")}


@pytest.fixture(scope="module")
def latents():
    """Name -> (t, h, w, bits) float64, by plain convolutions."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.syspath_prepend(str(BENCHMARKS))
        from plain import PlainTokenizer

        network = PlainTokenizer(load_tokenizer(GOLDEN)).double()
        return {name: network.encode(synthetic_clip.pixels_of(frames).double())[0].movedim(0, -1).numpy()
                for name, frames in SAMPLES.items()}


@pytest.fixture
def media(tmp_path_factory):
    """A folder with the clip and the image in files that lose nothing."""
    folder = tmp_path_factory.mktemp("media")
    synthetic_clip.write_lossless(folder / "clip.mkv", CLIP)
    Image.fromarray(SAMPLES["image"][0].numpy()).save(folder / "image.png")
    return folder


def test_the_files_have_the_committed_hashes():
    sums = dict(reversed(line.split("  ")) for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == {"config.json", "model.safetensors", "tokens-000000.tar"}
    for name, expected in sums.items():
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == expected, name
    assert (GOLDEN / "model.safetensors").stat().st_size < 300_000


@pytest.mark.parametrize("name", SAMPLES)
def test_the_stored_ids_are_the_signs_of_plainly_computed_latents_first_channel_most_significant(latents, stored, name):
    assert latents[name].shape[-1] == BITS and np.abs(latents[name]).min() > 1e-3  # no sign is in doubt
    wanted = np.packbits(latents[name] > 0, axis=-1, bitorder="big")  # eight bits, so that a byte is an id
    indices, meta = stored[name]
    assert meta["digits"] == [2] * BITS and meta["digit_order"] == "most significant first"
    assert np.array_equal(indices, wanted.astype(np.int32))
    assert len(np.unique(indices)) > 5  # the network does not say the same everywhere


@pytest.mark.parametrize("name", SAMPLES)
def test_tokenize_gives_exactly_the_stored_ids(tokenizer, stored, name):
    pixels = synthetic_clip.pixels_of(SAMPLES[name])
    assert np.array_equal(tokenizer.tokenize(pixels)[0].numpy(), stored[name][0])
    chunks = torch.cat(list(tokenizer.tokenize_stream(pixels.split(2, dim=2))), dim=1)
    assert np.array_equal(chunks[0].numpy(), stored[name][0])


def test_extraction_writes_the_committed_samples_with_the_tokenizers_hash(tokenizer, stored, media, tmp_path):
    digest = hashlib.sha256((GOLDEN / "config.json").read_bytes() + (GOLDEN / "model.safetensors").read_bytes())
    extract_tokens(tokenizer, media, tokenizer_hash=tokenizer_hash(GOLDEN), output=tmp_path, samples_per_shard=2)
    assert json.loads((tmp_path / "dataset.json").read_text())["tokenizer"] == digest.hexdigest()
    found = {key: (indices, meta) for key, indices, meta in read_tokens(tmp_path / "tokens-000000.tar")}
    assert list(found) == list(stored) == ["clip", "image"]
    for name, (indices, meta) in found.items():
        assert indices.dtype == stored[name][0].dtype and np.array_equal(indices, stored[name][0])
        assert meta["tokenizer"] == digest.hexdigest()
        assert meta["quantizer"].items() >= stored[name][1]["quantizer"].items()  # later ones may have more options
        assert meta | {"quantizer": None} == stored[name][1] | {"quantizer": None}


def test_the_committed_file_decodes_only_with_its_tokenizer(tokenizer, tmp_path):
    assert decode_tokens(tokenizer, GOLDEN / "tokens-000000.tar", tokenizer_hash=tokenizer_hash(GOLDEN),
                         output=tmp_path) == 2
    assert {file.name for file in tmp_path.iterdir()} == {"clip_reconstruction.mp4", "image_reconstruction.png"}
    with pytest.raises(ValueError, match="these are tokens of the tokenizer"):
        decode_tokens(tokenizer, GOLDEN / "tokens-000000.tar", tokenizer_hash="0" * 64, output=tmp_path / "other")
