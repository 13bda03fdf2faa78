"""A file is replaced completely or not at all."""

import pytest

from toolkit.io.atomic_write import atomic_open, atomic_write


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
