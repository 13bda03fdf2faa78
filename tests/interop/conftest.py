"""The reference networks, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from interop.foreign import Foreign


@pytest.fixture(scope="session")
def foreign() -> Callable[[str], Foreign]:
    return cache(Foreign)
