"""Where indexes of videos are kept: in memory and, if asked, in files."""

import numpy as np
import pytest
from numbered import encode, numbers_of

from toolkit.data import VideoClips
from toolkit.data.reading import video_file
from toolkit.data.reading.video_file import VideoFile
from toolkit.data.reading.video_index import IndexCache, build_index


def test_an_index_is_built_once_kept_on_disk_and_again_for_a_changed_file(tmp_path, monkeypatch, caplog):
    path = encode(tmp_path / "a.mp4", num_frames=30, b_frames=2)
    built = []

    def counting(*args, **kwargs):
        built.append(1)
        return build_index(*args, **kwargs)

    monkeypatch.setattr(video_file, "build_index", counting)
    options = dict(path=str(path), num_frames=5, size=64, train=False, index_dir=tmp_path / "indexes")
    monkeypatch.setattr(video_file, "INDEXES", IndexCache())
    runs = [numbers_of(VideoClips(**options)[0]["pixels"]) for _ in range(2)]
    assert len(built) == 1
    monkeypatch.setattr(video_file, "INDEXES", IndexCache())  # as another process
    runs.append(numbers_of(VideoClips(**options)[0]["pixels"]))
    assert len(built) == 1 and runs == [[12, 13, 14, 15, 16]] * 3
    encode(path, num_frames=40, b_frames=2)
    assert numbers_of(VideoClips(**options)[0]["pixels"])[0] == 18 and len(built) == 2
    for file in (tmp_path / "indexes").iterdir():
        file.write_bytes(b"damaged")
    monkeypatch.setattr(video_file, "INDEXES", IndexCache())
    assert numbers_of(VideoClips(**options)[0]["pixels"])[0] == 18 and len(built) == 3
    assert "is damaged and written again" in caplog.text


def test_indexes_in_memory_are_limited(tmp_path):
    cache = IndexCache(max_packets=50)
    paths = [encode(tmp_path / f"{number}.mp4", num_frames=20) for number in range(4)]
    built = []
    for path in [*paths, paths[3], paths[0]]:
        with VideoFile(path) as file:
            cache.get(path, lambda file=file: built.append(1) or file._build_index())
    assert len(built) == 5  # the last of three was still there, the first was not


@pytest.mark.parametrize("content", [b"", b"array", b"short"])
def test_a_damaged_index_is_written_again(tmp_path, caplog, content):
    path = encode(tmp_path / "a.mp4", num_frames=10)
    options = dict(path=str(path), num_frames=5, size=64, train=False, index_dir=tmp_path / "indexes")
    VideoClips(**options)[0]
    file, = (tmp_path / "indexes").iterdir()
    if content == b"array":
        with file.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif content == b"short":
        with np.load(file) as arrays:
            index = dict(arrays)
        with file.open("wb") as stream:
            np.savez(stream, **index | {"packets": index["packets"][:4]})
    else:
        file.write_bytes(content)
    video_file.INDEXES.clear()
    assert numbers_of(VideoClips(**options)[0]["pixels"]) == [2, 3, 4, 5, 6]
    assert "is damaged and written again" in caplog.text


def test_an_index_that_cannot_be_written_is_kept_in_memory(tmp_path, caplog):
    path = encode(tmp_path / "a.mp4", num_frames=10)
    (tmp_path / "indexes").mkdir()
    clips = VideoClips(path=str(path), num_frames=5, size=64, train=False, index_dir=tmp_path / "indexes")
    (tmp_path / "indexes").rmdir()
    (tmp_path / "indexes").write_bytes(b"")  # a place where root cannot write either
    assert numbers_of(clips[0]["pixels"]) == [2, 3, 4, 5, 6]
    assert "is kept in memory only" in caplog.text


def test_the_folder_of_indexes_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = encode(tmp_path / "a.mp4", num_frames=5)
    VideoClips(path=str(path), num_frames=5, size=64, train=False, index_dir="~/indexes")[0]
    assert len(list((tmp_path / "indexes").iterdir())) == 1
