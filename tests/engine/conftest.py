"""What tests of the engine share: the tiny run's fixtures, and what hostile files would create."""

from pathlib import Path

import pytest
from training import tiny

clips, as_in_a_new_process = tiny.clips, tiny.as_in_a_new_process


@pytest.fixture
def marker(tmp_path) -> Path:
    """A folder that code in a hostile file creates; it must not exist afterwards."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()
