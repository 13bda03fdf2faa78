from __future__ import annotations

from pathlib import Path

import pytest
from numbered import encode


@pytest.fixture
def short_video(tmp_path) -> Path:
    """40 frames."""
    return encode(tmp_path / "short.mp4", num_frames=40)
