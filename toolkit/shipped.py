"""Tokenizers that are shipped with the package: a folder of config.json, model.safetensors and README.md each."""

from __future__ import annotations

import difflib
from pathlib import Path


def shipped_folder() -> Path:
    """The folder that has the shipped tokenizers, each in a folder of its name."""
    return Path(__file__).parent / "pretrained" / "tokenizers"


def shipped_tokenizers() -> list[str]:
    """The names of the tokenizers shipped with this package, sorted; :func:`toolkit.load_tokenizer` takes them.

    ``python -m toolkit`` lists them with a description. The README.md beside the weights is the model card.

    Example:
        >>> "user/name" in shipped_tokenizers()   # a tokenizer of the Hugging Face hub
        False
    """
    return sorted(weights.parent.name for weights in shipped_folder().glob("*/model.safetensors")
                  if weights.with_name("config.json").is_file())


def folder_of(name: str) -> Path:
    """The folder of a shipped tokenizer, which need not exist."""
    return shipped_folder() / name


def shipped_tokenizers_in_words(name: str) -> str:
    """For the message that nothing is called ``name``: the names there are, and the nearest; "" if there are none."""
    names = shipped_tokenizers()
    nearest = difflib.get_close_matches(name, names, n=1)
    return (f" and none of the shipped tokenizers ({', '.join(names)})" if names else "") + (
        f", of which {nearest[0]} is the nearest" if nearest else "")


def description_of(name: str) -> str:
    """The first line of text in the card of a shipped tokenizer; "" without a card."""
    card = folder_of(name) / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    return next((line for line in lines if line.strip() and not line.startswith(("#", "<!--"))), "")
