"""Token sets decoded to files."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_shards import write_shard
from tokens.test_extraction import META, contents, decode, extract
from training.tiny import stripes

from toolkit.contracts import DataError
from toolkit.data import write_video
from toolkit.data.reading.files import find_files
from toolkit.data.reading.video_file import VideoFile
from toolkit.data.reading.writing import MediaWriter
from toolkit.reconstruction import reconstruct_files


def test_decoded_files_are_those_of_reconstruction(tokenizer, folder, tmp_path, monkeypatch):
    pixels, write = defaultdict(list), MediaWriter.write  # x264 does not write small frames twice the same
    monkeypatch.setattr(MediaWriter, "write", lambda self, part: pixels[self._image].append(part) or write(self, part))
    monkeypatch.setattr("toolkit.data.reading.media.CHUNK_FRAMES", 8)
    shutil.copytree(folder, tmp_path / "in")
    for name, frames in {"one": 1, "deep.er/long": 21}.items():
        write_video(tmp_path / "in" / f"{name}.mp4", stripes(1, num_frames=frames, height=17, width=18), fps=23.976)
    extract(tokenizer, tmp_path / "in", tmp_path / "tokens")
    written = [decode(tokenizer, tmp_path / "tokens", tmp_path / "decoded", process_index=number, num_processes=2)
               for number in (1, 0)]
    files = find_files(tmp_path / "in", output=tmp_path / "wanted")
    assert len(dict(reconstruct_files(tokenizer, files))) == sum(written) == len(files) == 8
    for file in files.values():
        wanted, found = (f"{folder / file.relative_to(tmp_path / 'wanted')}_reconstruction"
                         for folder in (tmp_path / "wanted", tmp_path / "decoded"))
        assert torch.equal(torch.cat(pixels[f"{found}.png"], dim=1), torch.cat(pixels[f"{wanted}.png"], dim=1))
        suffix = ".mp4" if file.name in ("0", "long") else ".png"
        assert Path(f"{found}{suffix}").exists() and Path(f"{wanted}{suffix}").exists()
        if suffix == ".mp4":
            with VideoFile(f"{found}.mp4") as one, VideoFile(f"{wanted}.mp4") as other:
                assert one.fps == other.fps and one.times.tolist() == other.times.tolist()


def test_decoded_files_are_not_decoded_again(tokenizer, folder, tmp_path):
    folders = tmp_path / "tokens", tmp_path / "decoded"
    extract(tokenizer, folder, tmp_path / "tokens")
    assert decode(tokenizer, *folders) == 6
    (tmp_path / "decoded" / "0_reconstruction.mp4").unlink()
    (tmp_path / "decoded" / ".partial.0_reconstruction.mp4").write_bytes(b"half")
    assert decode(tokenizer, *folders) == 1 and decode(tokenizer, *folders) == 0
    assert not list((tmp_path / "decoded").glob(".partial*"))


@pytest.mark.parametrize("key", ["../evil", "a/../../evil", "%2E%2E/evil", "/tmp/evil", "%2Ftmp/evil", "link/evil", ""])
def test_a_third_party_name_stays_in_the_output_folder(tokenizer, tmp_path, key):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path, target_is_directory=True)
    write_shard(tmp_path / "tokens-000000.tar", {key: np.zeros((1, 2, 2, 1), int)}, **META)
    before = set(contents(tmp_path))
    with pytest.raises(DataError, match="names within the output folder"):
        decode(tokenizer, tmp_path / "tokens-000000.tar", tmp_path / "out")
    assert set(contents(tmp_path)) == before


@pytest.mark.parametrize(("indices", "changes", "words"), [
    (np.zeros((1, 2, 3, 1), int), {}, r"needed indices \(1, 2, 2, 1\)"),
    (np.full((1, 2, 2, 1), 64), {}, "below 64.* up to 64"),
    (np.full((1, 2, 2, 1), -1), {}, "below 64"),
    (np.zeros((1, 2, 2, 1), int), {"size": [1, 8]}, "size of three numbers"),
    (np.zeros((1, 2, 2, 1), int), {"size": [1, -8, 8]}, "size of three numbers"),
    (np.zeros((1, 2, 2, 1), int), {"fps": "fast"}, "frames per second"),
    (np.zeros((1, 2, 2, 1), int), {"tokenizer": "1" * 64}, "tokens of the tokenizer 1111.*, got 0000"),
], ids=["shape", "too large", "negative", "two numbers", "negative size", "no rate", "another tokenizer"])
def test_tokens_that_do_not_fit_are_an_error(tokenizer, tmp_path, indices, changes, words):
    write_shard(tmp_path / "tokens-000000.tar", {"a": indices}, **META | changes)
    with pytest.raises(ValueError if "tokenizer" in changes else DataError, match=words):
        decode(tokenizer, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_incomplete_set_is_decoded_with_a_warning(tokenizer, folder, tmp_path, caplog):
    extract(tokenizer, folder, tmp_path / "tokens", process_index=1, num_processes=2)
    assert decode(tokenizer, tmp_path / "tokens", tmp_path / "out") == 3
    assert "lacks 3 of its shards" in caplog.text
