import logging
import os

import pytest

from toolkit.contracts import DataError
from toolkit.data.reading.files import list_files


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
