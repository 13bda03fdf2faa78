"""Tars of tokens as webdataset sees them, and tars of media."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from toolkit.contracts import DataError
from toolkit.data.reading.tar import index_tar, media_in_tar
from toolkit.io.atomic_write import atomic_open
from toolkit.tokens import read_tokens
from toolkit.tokens.shards import sample_key, write_npy, write_sample

NAMES = st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1),
                 min_size=1, max_size=3).map("/".join)


def npy(indices: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    np.save(file, indices)
    return file


TOKENS = npy(np.zeros((2, 2), int)).getvalue()


def write_shard(path: Path, samples: dict[str, np.ndarray], **meta) -> Path:
    with atomic_open(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as shard:
        for key, indices in samples.items():
            write_sample(shard, key, npy(indices), {"key": key, **meta})
    return path


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)
    names = ["a", "some.folder/a.png", "__MACOSX__/b", "deep/" * 60 + "c", "bär/ \n%41"]
    return {sample_key(name): generator.integers(0, 2**18, (number + 1, 3, 4, 1), dtype=np.int32)
            for number, name in enumerate(names)}


def test_webdataset_and_read_tokens_give_what_was_written(samples, tmp_path):
    path = write_shard(tmp_path / "tokens.tar", samples, fps=25.0)
    theirs = webdataset.WebDataset(str(path), shardshuffle=False).decode()
    for their, (key, indices, meta), expected_key in zip(theirs, read_tokens(path), samples, strict=True):
        assert their["__key__"] == key == expected_key
        assert their["json"] == meta == {"key": key, "fps": 25.0}
        for array in (their["indices.npy"], indices):
            np.testing.assert_array_equal(array, samples[key], strict=True)
        assert not indices.flags.owndata and not indices.flags.writeable  # of the mapped file


def test_a_shard_written_by_webdataset_is_read_too(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        writer.write({"__key__": "a/0", "json": {"fps": 8}, "indices.npy": np.arange(6).reshape(1, 2, 3, 1)})
    (key, indices, meta), = read_tokens(tmp_path / "theirs.tar")
    assert (key, meta, indices.tolist()) == ("a/0", {"fps": 8}, [[[[0], [1], [2]], [[3], [4], [5]]]])


def test_the_same_samples_are_the_same_bytes(samples, tmp_path):
    one, other = (write_shard(tmp_path / name, samples, b=1, a=[2]).read_bytes() for name in ("1.tar", "2.tar"))
    assert one == other
    with tarfile.open(tmp_path / "1.tar") as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}
        assert tar.extractfile("a.json").read().decode() == json.dumps({"a": [2], "b": 1, "key": "a"})  # sorted


def test_an_empty_shard_is_read_as_such(tmp_path):
    assert list(read_tokens(write_shard(tmp_path / "none.tar", {}))) == []


@given(NAMES)
def test_a_key_is_one_sample_to_webdataset_and_decodes_to_its_name(name):
    key = sample_key(name)
    assert unquote(key) == name and not key.startswith("__")
    assert base_plus_ext(f"{key}.indices.npy") == (key, "indices.npy")


@pytest.mark.parametrize("lengths", [[1], [3, 1, 4], [1] * 12])
def test_chunks_become_the_array_that_numpy_saves(lengths):
    whole = np.arange(sum(lengths) * 6, dtype=np.int64).reshape(-1, 2, 3)
    file = io.BytesIO()
    assert write_npy(file, np.split(whole, np.cumsum(lengths)[:-1])) == whole.shape
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), whole, strict=True)


@pytest.mark.parametrize(("indices", "meta", "words"), [
    (npy(np.array([{}], dtype=object)).getvalue(), b"{}", "object of shape"),
    (npy(np.zeros((2, 2))).getvalue(), b"{}", "integers are needed"), (TOKENS[:-1], b"{}", "integers are needed"),
    (b"", b"{}", "magic string"), (TOKENS, b"{", "Expecting property name"), (TOKENS, b"[]", "no JSON object"),
    (TOKENS, b"[" * 100_000, "")], ids=["objects", "floats", "too short", "empty", "no JSON", "no object", "deep"])
def test_an_invalid_sample_is_an_error_that_names_the_tar(indices, meta, words, tmp_path):
    with pytest.raises(DataError, match=rf"foreign.tar: needed a tar of tokens.*{words}"):
        list(read_tokens(write_tar(tmp_path / "foreign.tar", {"a.indices.npy": indices, "a.json": meta})))


def test_a_torn_or_empty_tar_is_an_error(samples, tmp_path):
    path = write_shard(tmp_path / "tokens.tar", samples)
    (tmp_path / "torn.tar").write_bytes(path.read_bytes()[:700])
    (tmp_path / "no_end.tar").write_bytes(path.read_bytes()[:2048])  # the first sample
    (tmp_path / "empty.tar").touch()
    for file in (tmp_path / f"{name}.tar" for name in ("torn", "no_end", "empty", "missing")):
        with pytest.raises(DataError, match=f"{file.name}: needed a tar of tokens"):
            list(read_tokens(file))


BOUNDARY = tarfile.BLOCKSIZE


def cuts_of(content: bytes) -> list[int]:
    """Lengths at, beside and between the boundaries of all blocks, so in headers, contents, padding and the end."""
    near = [start + shift for start in range(0, len(content), BOUNDARY) for shift in (0, 1, BOUNDARY - 1)]
    return [cut for cut in near if 0 < cut < len(content)]


def test_a_token_tar_cut_anywhere_gives_whole_samples_and_says_where_it_is_cut(samples, tmp_path):
    content, cut_tar = write_shard(tmp_path / "tokens.tar", samples).read_bytes(), tmp_path / "cut.tar"
    with tarfile.open(tmp_path / "tokens.tar") as tar:
        ends = {member.name: member.offset_data + member.size for member in tar}
        end_of_members = tar.offset
    for cut in cuts_of(content):
        cut_tar.write_bytes(content[:cut])
        keys, reader = [], read_tokens(cut_tar)
        with pytest.raises(DataError) if cut < end_of_members + BOUNDARY else nullcontext() as caught:
            for key, indices, _ in reader:
                np.testing.assert_array_equal(indices, samples[key], strict=True)
                keys.append(key)
        assert keys == [key for key in samples if max(ends[f"{key}.indices.npy"], ends[f"{key}.json"]) <= cut]
        if caught:
            assert f"cut.tar: needed a tar of tokens, got an incomplete one: the tar is cut off at byte {cut}" in str(
                caught.value)


def test_a_media_tar_cut_anywhere_gives_whole_files_and_says_where_it_is_cut(tmp_path):
    members = {f"{'deep/' * 40 if n == 1 else ''}{n}.png": bytes([n + 1]) * (300 * n + 10) for n in range(4)}
    content, cut_tar = write_tar(tmp_path / "a.tar", members).read_bytes(), tmp_path / "cut.tar"
    with tarfile.open(tmp_path / "a.tar") as tar:
        ends = [member.offset_data + member.size for member in tar]
        end_of_members = tar.offset
    for cut in cuts_of(content):
        cut_tar.write_bytes(content[:cut])
        expected, message = list(members.items())[:sum(end <= cut for end in ends)], f"the tar is cut off at byte {cut}"
        indexed, error = index_tar(cut_tar, suffixes=(".png",))
        assert [(member.name, member.read(cut_tar)) for member in indexed] == expected
        found = []
        with pytest.raises(DataError, match=message) if cut < end_of_members + BOUNDARY else nullcontext() as caught:
            found.extend(media_in_tar(cut_tar, suffixes=(".png",)))
        assert not found or found == expected
        assert message in str(error) if caught else error is None


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_cut_anywhere_says_where_it_is_cut(mode, tmp_path):
    members = {f"{n}.png": np.random.default_rng(n).bytes(40 * n + 1) for n in range(3)}
    content, cut_tar = write_tar(tmp_path / "a.tar.x", members, mode).read_bytes(), tmp_path / "cut.tar"
    for cut in {*range(1, len(content), 5), len(content) - 1}:
        cut_tar.write_bytes(content[:cut])
        found = []
        with pytest.raises(DataError, match=f"got an incomplete one: the tar is cut off at byte {cut}, in its"):
            for member in media_in_tar(cut_tar, suffixes=(".png",)):
                found.append(member)
        assert found == list(members.items())[:len(found)]


def test_a_cut_tar_that_was_compressed_afterwards_is_cut_off_too(tmp_path):
    content = write_tar(tmp_path / "a.tar", {f"{n}.png": bytes(700) for n in range(3)}).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content[:3000]))
    with pytest.raises(DataError, match=r"the tar is cut off at byte 3000 of its unpacked content"):
        list(media_in_tar(tmp_path / "a.tar.gz", suffixes=(".png",)))


@pytest.mark.parametrize(("content", "words"), [
    (b"<!DOCTYPE html>" * 99, "got a file that does not begin as a tar"), (b"", "got an empty file"),
    (b"version https://git-lfs.github.com/spec/v1", "cut off at byte 42, in its first header; or it is no tar"),
    (b"PK\3\4" + bytes(600), "got a zip file; unpack it"), (b"\x28\xb5\x2f\xfd" * 200, "got a zstd file; unpack it"),
    (b"7z\xbc\xaf" * 200, "got a 7z file; unpack it")], ids=["html", "empty", "pointer", "zip", "zstd", "7z"])
def test_a_file_that_is_no_tar_is_named_as_what_it_is(content, words, tmp_path):
    (tmp_path / "a.tar").write_bytes(content)
    _, error = index_tar(tmp_path / "a.tar", suffixes=(".png",))
    assert f"a.tar: needed an uncompressed tar, {words}" in str(error) or words in str(error)
    for read in (read_tokens, lambda path: media_in_tar(path, suffixes=(".png",))):
        with pytest.raises(DataError, match=rf"a\.tar: needed a tar.*{words}"):
            list(read(tmp_path / "a.tar"))


def test_a_compressed_tar_is_refused_where_its_bytes_are_sought(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"0.png": b"1"}, "w:gz")
    assert "needed an uncompressed tar, got a gzip file; unpack it" in str(index_tar(path, suffixes=(".png",))[1])
    with pytest.raises(DataError, match=r"needed a tar of tokens, got a gzip file; unpack it"):
        list(read_tokens(path))


@pytest.mark.parametrize(("change", "words"), [
    (lambda tar: tar[:1536] + b"x" * 512, "no header at byte 1536"), (lambda tar: tar + b"x", "more data after"),
    (lambda tar: tar[:1536] + b"x" * 512 + tar[2048:], "no header at byte 1536"),
    (lambda tar: tar + tar, "more data after its end at byte 3072")])
def test_what_tarfile_would_read_as_the_end_is_an_error(change, words, tmp_path):
    content = write_tar(tmp_path / "a.tar", {"0.png": bytes(1000), "1.png": bytes(1000)}).read_bytes()[:3072 + 1024]
    (tmp_path / "b.tar").write_bytes(change(content))
    with pytest.raises(DataError, match=f"b.tar: needed a tar, got {words}"):
        list(media_in_tar(tmp_path / "b.tar", suffixes=(".png",)))


@pytest.mark.parametrize("blocks", [1, 2, 3, 20])
def test_one_block_of_zeros_is_the_end_of_a_tar(blocks, tmp_path):
    content = write_tar(tmp_path / "a.tar", {"0.png": bytes(512)}).read_bytes()[:1024]
    (tmp_path / "a.tar").write_bytes(content + bytes(BOUNDARY * blocks))
    assert [name for name, _ in media_in_tar(tmp_path / "a.tar", suffixes=(".png",))] == ["0.png"]
    assert index_tar(tmp_path / "a.tar", suffixes=(".png",))[1] is None


def header(name: str, *, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header with the given size field of 12 bytes."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[156:157], block[148:156] = size, kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_other_members_are_ignored(tmp_path):
    members = {"README": b"x", "a.txt": b"x", "a.indices.npy": TOKENS, "b.json": b"[]", "a.cls": b"1",
               "c.json": b"{}", "c.indices.npy": TOKENS}
    assert [key for key, *_ in read_tokens(write_tar(tmp_path / "mixed.tar", members))] == ["c"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_media_come_in_order_without_hidden_and_other_files(mode, tmp_path):
    members = {"./b.png": b"1", "b.txt": b"2", "a/.hidden.png": b"3", ".cache/x.png": b"4", "a/c.MP4": b"5",
               "../d.png": b"6"}
    found = list(media_in_tar(write_tar(tmp_path / "a.tar", members, mode), suffixes=(".png", ".mp4")))
    assert found == [("b.png", b"1"), ("a/c.MP4", b"5"), ("../d.png", b"6")]


@pytest.mark.parametrize("tear", ["file", "header", "between", "foreign header"])
def test_a_torn_tar_gives_what_comes_before_the_tear(tear, tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"{n}.png": bytes(1000) for n in range(6)})
    content, start = path.read_bytes(), 3 * 1536  # a block of head and two of content each
    path.write_bytes({"file": content[:start + 800], "header": content[:start + 100], "between": content[:start],
                      "foreign header": content[:start] + b"x" * 512 + content[start + 512:]}[tear])
    found = media_in_tar(path, suffixes=(".png",), name="in/a.tar")
    assert [next(found)[0] for _ in range(3)] == ["0.png", "1.png", "2.png"]
    with pytest.raises(DataError, match=r"^in/a\.tar: needed a tar"):
        next(found)


def endless_header(kind: str) -> bytes:
    """Whole checksums, and contents that no tar has."""
    nothing = bytes(2 * tarfile.BLOCKSIZE)
    if kind == "names of names":
        name = header("././@LongLink", size=b"%011o\0" % 2, kind=tarfile.GNUTYPE_LONGNAME)
        return (name + b"ab".ljust(512, b"\0")) * 5000
    if kind == "sparse":
        member = tarfile.TarInfo("a.png")
        member.pax_headers = {"GNU.sparse.size": "20", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,1x"}
        return member.tobuf(tarfile.PAX_FORMAT) + nothing
    huge = b"\x80" + (2**62).to_bytes(11, "big")
    before = header("b.txt", size=b"%011o\0" % 0)  # after which a negative size leads back to its own header
    return {"a name of any length": header("././@LongLink", size=huge, kind=tarfile.GNUTYPE_LONGNAME),
            "a file of any length": header("a.txt", size=huge),
            "a file of more": header("a.txt", size=b"\x80" + b"\x7f" * 11),
            "minus a block": before + header("a.txt", size=(-512).to_bytes(12, "big", signed=True)),
            "minus a byte": before + header("a.txt", size=(-1).to_bytes(12, "big", signed=True))}[kind] + nothing


@pytest.mark.parametrize("kind", ["names of names", "sparse", "a name of any length", "a file of any length",
                                  "a file of more", "minus a block", "minus a byte"])
def test_damaged_headers_are_errors_that_name_the_tar(tmp_path, kind):
    (tmp_path / "a.tar").write_bytes(endless_header(kind))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(endless_header(kind)))
    with pytest.raises(DataError, match=r"a\.tar: needed a tar of tokens, got .+; "):
        list(read_tokens(tmp_path / "a.tar"))
    members, error = index_tar(tmp_path / "a.tar", suffixes=(".png",))
    assert members == [] and "a.tar: needed an uncompressed tar, got " in str(error)
    for name in ("a.tar", "a.tar.gz"):
        with pytest.raises(DataError, match=rf"{name}: needed a tar, got .+; "):
            list(media_in_tar(tmp_path / name, suffixes=(".png",)))
