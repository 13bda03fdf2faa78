"""What tests of commands share: the tiny run's fixtures, and a tokenizer."""

import pytest
from tools.commands import save_tokenizer
from training import tiny

clips, as_in_a_new_process = tiny.clips, tiny.as_in_a_new_process


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """The folder of a tokenizer, which no test changes."""
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))
