"""Folders of toolkit/data import each other in one direction."""

import ast
from pathlib import Path

import pytest

import toolkit.data

ALLOWED = {"reading": {"reading"}, "datasets": {"datasets", "reading"}, "loading": {"loading"}}


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_the_folders_below_it(folder):
    for path in Path(toolkit.data.__file__).with_name(folder).glob("*.py"):
        modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        folders = {module.split(".")[2] for module in modules if module.startswith("toolkit.data.")} - {"seeding"}
        assert folders <= ALLOWED[folder], path
