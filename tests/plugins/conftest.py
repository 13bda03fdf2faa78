"""Small plugin distributions, installed, and a registry to load them into."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from plugins.installed import install
from plugins_of_tests import DISTRIBUTIONS, MODULES, write_distribution

from toolkit import plugins, registry
from toolkit.contracts import Quantizer
from toolkit.registry import QUANTIZERS, Registry


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """A folder with all the distributions of plugins_of_tests installed."""
    root = tmp_path_factory.mktemp("plugins")
    return install([write_distribution(root / name, name) for name in DISTRIBUTIONS], root / "site")


@pytest.fixture
def site(installed, tmp_path, monkeypatch) -> Path:
    """A copy to damage, on sys.path; no test that uses it leaves a component behind."""
    folder = Path(shutil.copytree(installed, tmp_path / "site"))
    monkeypatch.delenv("TOOLKIT_PLUGINS", raising=False)
    monkeypatch.setattr(plugins, "_LOADED", set())
    for kind in registry.ALL:
        kind.import_from_location()
        monkeypatch.setattr(kind, "_module_dict", dict(kind.module_dict))
    monkeypatch.syspath_prepend(folder)
    yield folder
    for module in MODULES:
        sys.modules.pop(module, None)


@pytest.fixture
def quantizers() -> Registry:
    """A separate registry with one built-in component."""
    own = Registry("quantizer", contracts=(Quantizer,), location="toolkit.quantizers")
    own.register_module()(QUANTIZERS.get("LFQ"))
    return own
