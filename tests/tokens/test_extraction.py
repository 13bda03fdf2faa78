"""Token sets: what is in them, shared between processes and continued."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from data.test_shards import write_tar
from hub_cache import add_commit, use_cache
from training.tiny import stripes

from toolkit import load_tokenizer
from toolkit.build import build_tokenizer
from toolkit.contracts import DataError
from toolkit.data import open_media, read_image, read_video, write_video
from toolkit.data.reading.transforms import to_pixels
from toolkit.tokens import decode_tokens, extract_tokens, read_tokens, summarize
from toolkit.tokens.plan import plan_shards

HASH = "0" * 64
META = {"tokenizer": HASH, "size": [1, 8, 8], "fps": None}


def extract(tokenizer, path, output, **options):
    return extract_tokens(tokenizer, path, tokenizer_hash=HASH, output=output, **options)


def decode(tokenizer, path, output, **options):
    return decode_tokens(tokenizer, path, tokenizer_hash=HASH, output=output, **options)


def tokens_in(folder: Path) -> dict[str, tuple[np.ndarray, dict]]:
    """source -> (indices, metadata)."""
    found = [sample for tar in sorted(folder.glob("*.tar")) for sample in read_tokens(tar)]
    tokens = {meta["source"]: (indices, meta) for _, indices, meta in found}
    assert len(tokens) == len(found) == len({key for key, *_ in found})
    return tokens


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_tokens_are_those_of_the_tokenizer(tokenizer, folder, tmp_path):
    summary = extract(tokenizer, folder, tmp_path)
    tokens = tokens_in(tmp_path)
    assert list(tokens) == ["0.mp4", "a.jpg", "a.png", "b.v2.png", "c.png", "deep.er/d.png"]
    assert (summary.complete, summary.num_samples, summary.unreadable) == (True, 6, [])
    assert summary.num_tokens == sum(indices.size for indices, _ in tokens.values())
    for source, (indices, meta) in tokens.items():
        pixels = (to_pixels(read_video(folder / source)[0]) if source == "0.mp4" else read_image(folder / source))[None]
        whole, size = tokenizer.tokenize(pixels, return_size=True)
        undecided = tokenizer.encoder(tokenizer._pad(pixels)).abs().amin(1)[0, ..., None] < 1e-5
        assert indices.dtype == np.int32 and indices.shape == tuple(whole.shape[1:])
        assert ((torch.from_numpy(indices.copy()) == whole[0]) | undecided).all()
        assert meta["size"] == list(size) and meta["num_frames"] == size[0]


def test_a_sample_has_its_metadata(tokenizer, folder, tmp_path):
    extract(tokenizer, folder, tmp_path, short_edge=16, num_frames=2, frame_stride=3)
    known = {source: meta for source, (_, meta) in tokens_in(tmp_path).items()}
    assert known["0.mp4"] == {
        "key": "0", "source": "0.mp4", "original_size": [32, 32], "size": [2, 16, 16], "num_frames": 2,
        "fps": pytest.approx(8 / 3), "frame_stride": 3, "tokenizer": HASH, "quantizer": tokenizer.quantizer.config,
        "codebook_size": 64, "num_codebooks": 1, "digits": [2] * 6, "digit_order": "most significant first"}
    assert known["0.mp4"]["quantizer"]["bit_order"] == "msb_first"
    assert {source: (meta["key"], meta["fps"]) for source, meta in known.items() if source != "0.mp4"} == {
        "a.png": ("a%2Epng", None), "a.jpg": ("a%2Ejpg", None), "b.v2.png": ("b%2Ev2", None), "c.png": ("c", None),
        "deep.er/d.png": ("deep%2Eer/d", None)}
    assert known["a.png"]["size"] == [1, 16, 19] and known["a.png"]["original_size"] == [20, 24]


@pytest.mark.parametrize("num_processes", [2, 3, 9])
def test_any_number_of_processes_write_the_same(tokenizer, folder, tmp_path, num_processes):
    extract(tokenizer, folder, tmp_path / "one")
    for number in reversed(range(num_processes)):
        summary = extract(tokenizer, folder, tmp_path / "more", process_index=number, num_processes=num_processes)
        assert summary.complete == (number == 0)
    assert contents(tmp_path / "one") == contents(tmp_path / "more")


def test_only_missing_shards_are_written(tokenizer, folder, tmp_path):
    extract(tokenizer, folder, tmp_path, samples_per_shard=2)
    whole, written = contents(tmp_path), {file: file.stat().st_mtime_ns for file in tmp_path.glob("tokens-*")}
    (tmp_path / "tokens-000001.tar").unlink()
    (tmp_path / ".partial.tokens-000001.tar.killed").write_bytes(b"half")
    assert not summarize(tmp_path).complete
    assert extract(tokenizer, folder, tmp_path, samples_per_shard=2).complete
    assert contents(tmp_path) == whole
    again = {file.name for file, time in written.items() if file.stat().st_mtime_ns != time}
    assert again == {"tokens-000001.tar", "tokens-000001.json"}


def test_long_samples_are_buffered_on_disk(tokenizer, folder, tmp_path, monkeypatch):
    extract(tokenizer, folder, tmp_path / "memory")
    monkeypatch.setattr("toolkit.tokens.extract.MAX_IN_MEMORY", 1)
    extract(tokenizer, folder, tmp_path / "disk")
    assert contents(tmp_path / "disk") == contents(tmp_path / "memory")


def test_a_failed_shard_is_absent_and_the_others_are_complete(tokenizer, folder, tmp_path, monkeypatch):
    extract(tokenizer, folder, tmp_path / "whole", samples_per_shard=1)
    monkeypatch.setattr(tokenizer, "tokenize", lambda pixels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(tokenizer, folder, tmp_path / "cut", samples_per_shard=1)
    assert set(contents(tmp_path / "cut")) == {"dataset.json", "tokens-000000.tar", "tokens-000000.json"}
    monkeypatch.undo()
    extract(tokenizer, folder, tmp_path / "cut", samples_per_shard=1)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_set_of_other_settings_is_refused(tokenizer, folder, tmp_path):
    extract(tokenizer, folder, tmp_path)
    before = contents(tmp_path)
    for change, words in [
        (dict(num_frames=3), "made with num_frames=None, got num_frames=3"),
        (dict(frame_stride=2), "made with frame_stride=1, got frame_stride=2"),
        (dict(short_edge=8), "short_edge=None, got short_edge=8"),
        (dict(samples_per_shard=4), "num_shards=6, samples_per_shard=1, got num_shards=2, samples_per_shard=4"),
        (dict(tokenizer_hash="1" * 64), "tokenizer=000.*, got tokenizer=111"),
        (dict(path=folder / "c.png"), "made with inputs="),
    ]:
        with pytest.raises(ValueError, match=words):
            extract_tokens(tokenizer, output=tmp_path, **dict(path=folder, tokenizer_hash=HASH) | change)
        assert contents(tmp_path) == before


def breaking_video() -> bytes:
    """Its frames cannot be decoded from its middle on."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("png", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "rgb24"
        for noise in np.random.default_rng(0).integers(0, 255, (30, 32, 32, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(file.getvalue())
    content[len(content) // 2:len(content) // 2 + 4000] = bytes(4000)
    return bytes(content)


def test_unreadable_files_are_listed_and_the_others_are_extracted(tokenizer, folder, tmp_path, caplog):
    shutil.copytree(folder, tmp_path / "in")
    (tmp_path / "in" / "b.avi").write_bytes(breaking_video())
    (tmp_path / "in" / "deep.er" / "torn.png").write_bytes(b"no image")
    (tmp_path / "in" / "z.mp4").write_bytes(b"no video")
    with open_media(tmp_path / "in" / "b.avi") as media, pytest.raises(DataError):
        chunks = media.chunks(4)
        assert next(chunks).shape[1] == 4  # it begins well
        list(chunks)
    summary = extract(tokenizer, tmp_path / "in", tmp_path / "out", samples_per_shard=4)
    assert summary.complete and [source for source, _ in summary.unreadable] == ["b.avi", "deep.er/torn.png", "z.mp4"]
    lines = (tmp_path / "out" / "unreadable.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["b.avi", "deep.er/torn.png", "z.mp4"]
    assert lines[2].split("\t")[1].startswith("z.mp4: needed a video")
    extract(tokenizer, folder, tmp_path / "wanted")
    found, wanted = tokens_in(tmp_path / "out"), tokens_in(tmp_path / "wanted")
    assert set(found) == set(wanted) and all(np.array_equal(found[key][0], wanted[key][0]) for key in wanted)


def test_a_shard_of_unreadable_files_only_is_done(tokenizer, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    for _ in range(2):
        summary = extract(tokenizer, tmp_path / "in", tmp_path / "out")
        assert summary.complete and summary.num_samples == 0 and len(summary.unreadable) == 1
    assert list(read_tokens(tmp_path / "out" / "tokens-000000.tar")) == []


@pytest.fixture
def tars(folder, tmp_path):
    """Two tars of the folder's files and a torn one."""
    tars = tmp_path / "tars"
    tars.mkdir()
    files = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.*")) if file.is_file()}
    write_tar(tars / "in-00.tar", {f"./{name}": content for name, content in files.items()} | {"c.txt": b"a caption"})
    image = files["c.png"]
    write_tar(tars / "in-01.tar", {"A.png": image, "a.png": image, "../out.png": image, "/abs.png": image,
                                   "torn.mp4": b"no"})
    with tarfile.open(tars / "in-01.tar", "a") as tar:  # a name a second time
        member = tarfile.TarInfo("a.png")
        member.size = len(image)
        tar.addfile(member, io.BytesIO(image))
    write_tar(tars / "in-02.tar", {"0.png": image, "1.png": image})
    (tars / "in-02.tar").write_bytes((tars / "in-02.tar").read_bytes()[:-9000])
    return tars


def test_a_tar_gives_one_shard_with_the_tokens_of_its_files(tokenizer, folder, tars, tmp_path):
    summary = extract(tokenizer, tars / "in-{00..00}.tar", tmp_path / "out")
    extract(tokenizer, folder, tmp_path / "wanted")
    found, wanted = tokens_in(tmp_path / "out"), tokens_in(tmp_path / "wanted")
    assert summary.num_shards == 1 and set(found) == {f"in-00.tar/{source}" for source in wanted}
    for source, (indices, meta) in wanted.items():
        np.testing.assert_array_equal(found[f"in-00.tar/{source}"][0], indices)
        name = meta["key"] if source != "a.jpg" else "a"  # the first of two of a name, which a tar cannot know of
        renamed = {"key": f"in-00%2Etar/{name}", "source": f"in-00.tar/{source}"}
        assert found[f"in-00.tar/{source}"][1] == meta | renamed
    assert found["in-00.tar/b.v2.png"][1]["key"] == "in-00%2Etar/b%2Ev2"


def test_unusable_members_of_a_tar_are_listed(tokenizer, tars, tmp_path):
    for pattern in ("in-*.tar", "in-{00..02}.tar"):
        output = tmp_path / pattern[3]
        summary = extract(tokenizer, tars / pattern, output)
        assert summary.complete and summary.num_shards == 3
        assert [source for source, _ in summary.unreadable] == [
            f"in-01.tar/{name}" for name in ("../out.png", "/abs.png", "torn.mp4", "a.png")] + ["in-02.tar"]
        size = (tars / "in-02.tar").stat().st_size
        assert f"in-02.tar: needed a tar, got an incomplete one: the tar is cut off at byte {size};" in (
            summary.unreadable[-1][1])
        assert [source for source in tokens_in(output) if "in-00" not in source] == [
            "in-01.tar/A.png", "in-01.tar/a.png", "in-02.tar/0.png"]
    assert contents(tmp_path / "*") == contents(tmp_path / "{")


def test_the_plan_has_equal_counts_and_one_shard_for_each_tar(tmp_path):
    for name in ("a.png", "b.png", "c.tar", "d.png", "e.png", "f.png", "g.tar", "notes.txt"):
        (tmp_path / name).touch()

    def plan(**options):
        return ["".join(item.source[0] for item in shard)
                for shard in plan_shards(tmp_path, output=tmp_path / "out", **options)]

    assert plan(samples_per_shard=2) == ["ab", "c", "de", "f", "g"]
    assert plan() == list("abcdefg")
    for number in range(500):
        (tmp_path / f"{number}.png").touch()
    assert {len(shard) for shard in plan()[:-7]} == {8}  # 507 files in at least 63 shards
    with pytest.raises(ValueError, match="samples_per_shard needs a number of at least 1, got 0"):
        plan(samples_per_shard=0)


@pytest.fixture
def sizes(tokenizer, monkeypatch):
    """The sizes of the batches that are tokenized."""
    sizes, tokenize = [], tokenizer.tokenize
    monkeypatch.setattr(tokenizer, "tokenize", lambda pixels: sizes.append(tuple(pixels.shape)) or tokenize(pixels))
    return sizes


def test_images_of_one_size_go_in_batches(tokenizer, folder, tmp_path, sizes):
    extract(tokenizer, folder, tmp_path / "batches", samples_per_shard=6, batch_size=2)
    assert sizes == [(2, 3, 1, 20, 24), (1, 3, 1, 20, 24), (1, 3, 1, 12, 24), (1, 3, 1, 7, 9)]
    extract(tokenizer, folder, tmp_path / "single", samples_per_shard=6)
    found, wanted = tokens_in(tmp_path / "batches"), tokens_in(tmp_path / "single")
    assert list(found) == list(wanted)
    for source, (indices, meta) in wanted.items():
        assert found[source][1] == meta and (found[source][0] == indices).mean() > 0.9


def test_no_batch_spans_two_shards(tokenizer, folder, tmp_path, sizes):
    extract(tokenizer, folder, tmp_path / "one", samples_per_shard=2, batch_size=9)
    assert [size[0] for size in sizes] == [1, 2, 1, 1]  # a.jpg beside the clip; a.png and b.v2.png; c.png; d.png
    for number in range(3):
        extract(tokenizer, folder, tmp_path / "three", samples_per_shard=2, batch_size=9, process_index=number,
                num_processes=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_several_codebooks_are_the_last_axis(make_tokenizer, folder, tmp_path):
    extract(make_tokenizer(bits=3, num_codebooks=2), folder / "c.png", tmp_path)
    (indices, meta), = tokens_in(tmp_path).values()
    assert indices.shape == (1, 3, 6, 2) and (meta["codebook_size"], meta["num_codebooks"]) == (8, 2)


def test_a_large_codebook_has_wide_numbers(make_tokenizer, folder, tmp_path):
    parts = {kind: {key: value for key, value in part.items() if key not in ("in_channels", "out_channels")}
             for kind, part in make_tokenizer().config.items()}
    parts["quantizer"] = dict(type="LFQ", bits=40, entropy_groups=2)
    extract(build_tokenizer(parts).eval(), folder / "c.png", tmp_path)
    (indices, _), = tokens_in(tmp_path).values()
    assert indices.dtype == np.int64 and indices.max() > 2**31


def test_a_tokenizer_that_cannot_stream_uses_the_beginning(make_tokenizer, tmp_path, caplog):
    tokenizer = make_tokenizer(norm_scope="clip")
    write_video(tmp_path / "long.mp4", stripes(1, num_frames=70, height=16, width=16), fps=24)
    extract(tokenizer, tmp_path / "long.mp4", tmp_path / "out")
    (indices, meta), = tokens_in(tmp_path / "out").values()
    assert meta["size"] == [65, 16, 16] and indices.shape == (33, 4, 4, 1)
    assert "long.mp4: only the first 65 frames are used" in caplog.text and "norm_scope" in caplog.text
    pixels = to_pixels(read_video(tmp_path / "long.mp4", num_frames=65)[0])[None]
    assert torch.equal(tokenizer.tokenize(pixels)[0], torch.from_numpy(indices.astype(np.int64)))


def test_a_continuous_tokenizer_is_refused_by_name(make_tokenizer, folder, tmp_path):
    config = make_tokenizer().config | {"quantizer": dict(type="Identity", dim=6)}
    with pytest.raises(ValueError, match="needs a discrete quantizer, got Identity"):
        extract(build_tokenizer(config).eval(), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["batch_size", "num_workers", "frame_stride", "short_edge", "num_frames"])
def test_a_number_below_one_is_refused_before_anything_is_written(tokenizer, folder, tmp_path, option):
    with pytest.raises(ValueError, match=f"at least 1, got {option}=0"):
        extract(tokenizer, folder, tmp_path / "out", **{option: 0})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["encoder.conv_in.weight", "decoder.conv_out.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_anything_is_written(tokenizer, folder, tmp_path, name, value):
    tokenizer.get_parameter(name).data[0] = value
    with pytest.raises(ValueError, match=f"needs finite weights, got NaN or infinity in 1 of them, first in {name}"):
        extract(tokenizer, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_ends_at_all_shards_and_frames(tokenizer, folder, tmp_path):
    seen = []
    extract(tokenizer, folder, tmp_path, on_progress=lambda progress: seen.append((progress.shards, progress.frames)))
    assert seen == sorted(seen) and seen[-1] == (6, 11)


def test_latents_that_are_not_finite_end_the_run_without_a_token_file(tokenizer, folder, tmp_path, monkeypatch):
    forward = tokenizer.encoder.forward
    monkeypatch.setattr(tokenizer.encoder, "forward", lambda *inputs: forward(*inputs) * float("nan"))
    with pytest.raises(ValueError, match="finite latents"):
        extract(tokenizer, folder, tmp_path)
    assert set(contents(tmp_path)) == {"dataset.json"}


def test_a_token_set_has_the_commit_of_its_tokenizer_and_takes_no_other(tokenizer, folder, tmp_path, monkeypatch):
    cache, saved = use_cache(tmp_path / "hub", monkeypatch), tmp_path / "saved"
    tokenizer.save_pretrained(saved)
    for commit, refs in (("a" * 40, ("main",)), ("b" * 40, ("v2",))):  # of equal weights
        add_commit(cache, "user/name", commit, saved, subfolder="sub", refs=refs)
    first, same, other = (load_tokenizer("user/name", subfolder="sub", revision=revision)
                          for revision in ("main", "a" * 40, "v2"))
    extract(first, folder / "*.png", tmp_path / "out")
    expected = {"repo": "user/name", "revision": "main", "subfolder": "sub", "commit": "a" * 40}
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["tokenizer_source"] == expected
    assert all(meta["tokenizer_source"] == expected for _, meta in tokens_in(tmp_path / "out").values())
    before = contents(tmp_path / "out")
    assert extract(same, folder / "*.png", tmp_path / "out").complete and contents(tmp_path / "out") == before
    for others in (other, load_tokenizer(saved)):
        with pytest.raises(ValueError, match=r"was made with tokenizer_source=.*'a{40}'.*, got .*another output"):
            extract(others, folder / "*.png", tmp_path / "out")
    extract(load_tokenizer(saved), folder / "*.png", tmp_path / "local")
    assert "tokenizer_source" not in json.loads((tmp_path / "local" / "dataset.json").read_text())
    assert decode(tokenizer, tmp_path / "out", tmp_path / "decoded") == 3
