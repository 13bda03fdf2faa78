import logging
import os
import socket

import pytest

from toolkit.contracts import DataError
from toolkit.data import Images, VideoClips, open_media, read_image, read_video
from toolkit.data.reading.files import find_files, list_files


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.MP4", "deep/er/c.mp4", "deep/notes.md", ".hidden/d.mp4", "._a.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(path):
    return [file.name for file in list_files(path, suffixes=(".mp4",))]


def test_a_folder_is_searched_recursively_in_order_of_names_and_links_are_followed_once(folder):
    assert names(folder) == ["a.MP4", "b.mp4", "c.mp4"]
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "deep" / "more").symlink_to(folder / "deep" / "er")
    assert names(folder / "deep") == ["c.mp4", "a.MP4", "b.mp4"]


def test_a_list_file_is_relative_to_itself(folder):
    (folder / "deep" / "list.txt").write_text("# chosen\ner/c.mp4\n\n  ../b.mp4\n/abs/x.bin\n")
    files = list_files(folder / "deep" / "list.txt", suffixes=(".mp4",))
    assert [file.exists() for file in files] == [True, True, False]


def test_globs_single_files_and_lists_of_all_kinds(folder):
    assert names(folder / "*.mp4") == ["b.mp4"] and names(str(folder / "**" / "*.mp4")) == ["b.mp4", "c.mp4"]
    assert names([str(folder / "deep" / "notes.md"), str(folder / "deep")]) == ["notes.md", "c.mp4"]
    with pytest.raises(DataError, match="empty"):
        names([])


def test_braces_are_expanded_and_every_file_must_exist(folder):
    assert names(folder / "{b.mp4,deep/**/*.mp4}") == ["b.mp4", "c.mp4"]
    (folder / "{1..2}.mp4").touch()
    assert names(folder / "{1..2}.mp4") == ["{1..2}.mp4"]  # a file of that very name
    with pytest.raises(DataError, match=r"c\.mp4: .*does not exist"):
        names(folder / "{b,c}.mp4")


@pytest.mark.parametrize(("path", "message"), [("nowhere", "does not exist"), ("empty", "got none"),
                                               ("*.avi", "got none"), ("empty.txt", "got none")])
def test_missing_and_empty_inputs_are_named(folder, path, message):
    (folder / "empty").mkdir()
    (folder / "empty.txt").write_text("\n# nothing\n")
    with pytest.raises(DataError, match=message) as caught:
        list_files(folder / path, suffixes=(".mp4",))
    assert str(caught.value).startswith(str(folder / path))


def test_a_folder_that_cannot_be_listed_is_skipped_with_a_warning(folder, monkeypatch, caplog):
    (folder / "deep" / "er").chmod(0)
    folder.chmod(0o755)
    monkeypatch.chdir(folder)
    user = os.geteuid()
    try:
        if user == 0:  # who may list everything
            os.seteuid(65534)
        with caplog.at_level(logging.WARNING):
            assert names(".") == ["a.MP4", "b.mp4"]
    finally:
        os.seteuid(user)
    assert caplog.messages == ["skipped, a folder that cannot be listed: ./deep/er (Permission denied)."]


@pytest.mark.parametrize(("path", "counts"), [
    ("", "skipped 3 files with other endings: 1 without an ending, 1 .md, 1 .png"),
    ("deep/*", "skipped 2 files with other endings: 1 .md, 1 .png"),
    ("*.mp4", None), ("{deep,deep/*}", "skipped 4 files with other endings: 2 .md, 2 .png")])
def test_one_line_counts_the_visible_files_that_are_skipped(folder, caplog, path, counts):
    for name in ("deep/a.png", "deep/b.mp4", "LICENSE", "deep/.hidden.md"):
        (folder / name).touch()
    with caplog.at_level(logging.INFO):
        names(folder / path)
    assert caplog.messages == ([] if counts is None else [f"{counts} (in {folder / path})."])


def test_files_of_the_output_folder_and_those_beside_are_not_counted(folder, caplog):
    (folder / "deep" / "out").mkdir()
    (folder / "deep" / "out" / "a.json").touch()
    with caplog.at_level(logging.INFO):
        find_files(folder, output=folder / "deep" / "out", suffixes=(".mp4",))
        list_files(folder / "deep", suffixes=(".mp4",), beside=(".md", ".json"))
    assert caplog.messages == [f"skipped 1 file with other endings: 1 .md (in {folder})."]


@pytest.fixture
def special(folder):
    """The folder, with a pipe, a socket and a link to a device that have a video's ending, and a link to itself."""
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.mp4"))
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "lost.mp4").symlink_to(folder / "lost.mp4")
    return folder


@pytest.mark.parametrize(("path", "expected"), [
    ("", ["a.MP4", "b.mp4", "c.mp4", "lost.mp4"]), ("*", ["a.MP4", "b.mp4", "lost.mp4"]),
    ("{.,deep/er}/*.mp4", ["b.mp4", "c.mp4", "lost.mp4"]), ("list.txt", ["a.MP4", "b.mp4", "lost.mp4"])])
def test_pipes_sockets_and_devices_are_skipped_with_a_line(special, caplog, path, expected):
    (special / "list.txt").write_text("a.MP4\nb.mp4\ndevice.mp4\nlost.mp4\npipe.mp4\nsocket.mp4\n")
    assert sorted(names(special / path)) == expected
    assert sorted(caplog.messages) == [f"skipped, no regular file: {special / name} ({kind})." for name, kind in (
        ("device.mp4", "a device"), ("pipe.mp4", "a named pipe"), ("socket.mp4", "a socket"))]


@pytest.mark.parametrize(("name", "kind"), [("pipe.mp4", "a named pipe"), ("socket.mp4", "a socket"),
                                            ("device.mp4", "a device"), ("deep", "a folder")])
def test_a_single_path_that_is_no_regular_file_is_refused_at_once(special, name, kind):
    readers = [open_media, read_image, read_video]
    if name != "deep":
        readers += [names, lambda path: Images(path=path), lambda path: VideoClips(path=path)]
    for read in readers:
        with pytest.raises(DataError, match=f"{name}: needed a regular file, got {kind};") as caught:
            read(special / name)
        assert caught.value.path == str(special / name)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_file_may_come_from_any_editor(folder, mark, end):
    lines = ["b.mp4", "  deep/er/c.mp4\t", "", "# a comment", "caf\u00e9.mp4"]
    (folder / "list.txt").write_bytes(mark + end.join(lines).encode())
    assert names(folder / "list.txt") == ["b.mp4", "c.mp4", "caf\u00e9.mp4"]


def test_only_line_feeds_end_a_line_of_a_list_file(folder):
    wanted = [f"a{character}b.mp4" for character in "\x0b\x0c\x1c\x85\u2028\u2029\r"]
    (folder / "list.txt").write_bytes("\n".join(wanted).encode())
    assert names(folder / "list.txt") == wanted


def test_a_pattern_longer_than_a_path_may_be_is_expanded(folder):
    pattern = "{" + ",".join(["b.mp4"] * 2000) + "}"
    assert len(names(folder / pattern)) == 2000


def test_list_files_may_be_joined(folder):
    (folder / "joined.txt").write_text("\ufeffa.mp4\n\ufeffb.mp4\n", encoding="utf-8")
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(b"")
    assert [file.name for file in list_files(folder / "joined.txt", suffixes=(".mp4",))] == ["a.mp4", "b.mp4"]


def test_the_home_of_an_unknown_user_is_a_missing_file():
    with pytest.raises(DataError):
        list_files("~no such user/a.mp4", suffixes=(".mp4",))
