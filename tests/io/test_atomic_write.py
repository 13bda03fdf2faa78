"""A file is replaced completely or not at all."""

import os

import pytest

from toolkit.io.atomic_write import PARTIAL, atomic_open, atomic_write


def test_a_file_appears_at_the_end_of_the_block_and_is_unchanged_after_an_error(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as partial:
        partial.write_text("complete")
        assert not path.exists() and partial.suffix == ".txt"
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "complete" and list(tmp_path.iterdir()) == [path]


def test_an_open_file_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_open(tmp_path / "a.tar") as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    with atomic_open(tmp_path / "a") as one, atomic_open(tmp_path / "a") as other:
        one.write(b"1")
        other.write(b"22")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"1")]  # closed last


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "\u00e9" * 125 + ".png", "a." + "b" * 250])
@pytest.mark.parametrize("write", [atomic_write, atomic_open])
def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path, name, write):
    for _ in range(2):
        with write(tmp_path / name) as partial:
            hidden, = (file for file in tmp_path.iterdir() if file.name.startswith(PARTIAL)) if write is atomic_open \
                else (partial,)
            assert len(os.fsencode(hidden.name)) < 143  # of encrypted folders
            partial.write(b"1") if write is atomic_open else partial.write_bytes(b"1")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_hidden_files_of_long_names_differ_and_keep_the_suffix(tmp_path):
    with atomic_write(tmp_path / ("x" * 250 + ".png")) as one, atomic_write(tmp_path / ("x" * 249 + "y.png")) as other:
        assert one != other and one.suffix == other.suffix == ".png"
        one.touch()
        other.touch()


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path):
    for write in (atomic_write, atomic_open):
        with pytest.raises(OSError, match="File name too long"), write(tmp_path / ("x" * 256)):
            raise AssertionError("the block has run")
    assert list(tmp_path.iterdir()) == []
