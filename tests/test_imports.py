"""The structure of the package: import order, file sizes, docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import toolkit

PACKAGE = Path(toolkit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}

# A package or module may import those of lower rank and itself, but no other of its own rank.
RANKS = [("contracts",), ("io",), ("assets",), ("layers",), ("plugins", "shipped"), ("registry",), ("config",),
         ("saving",), ("pretrained",), ("networks", "quantizers", "losses", "metrics", "baselines", "data"),
         ("streaming",), ("tokenizer",), ("training",), ("profiling",), ("build",), ("run",),
         ("evaluation", "interop", "testing", "reconstruction", "tokens")]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
OUTSIDE = ("plugins", "tools", "benchmarks", "tests", "configs")


def top_level(path: Path) -> str:
    """The first name below toolkit: "layers" for toolkit/layers/norm.py, "build" for toolkit/build.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(path: Path) -> list[str]:
    """Every module name a file imports, those within functions included."""
    names = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"toolkit/{relative(path)} has a relative import"
            # ``from toolkit import x`` may import a module, so the names count too.
            names += [node.module] if node.module != "toolkit" else [f"toolkit.{alias.name}" for alias in node.names]
    return names


def top_level_imports(path: Path) -> set[str]:
    names = set()
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "toolkit":
            home = toolkit._HOME.get(parts[1]) if len(parts) == 2 else None  # a public name stands for its module
            names.add((home or name).split(".")[1] if len(parts) > 1 else "toolkit")
    return names


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", [p for p in FILES if top_level(p) not in ("__init__", "__main__")], ids=relative)
def test_imports_go_to_lower_ranks_only(path):
    own = top_level(path)
    rank = RANK[own]
    wrong = {other for other in top_level_imports(path)
             if other not in (own, "toolkit") and RANK.get(other, len(RANKS)) >= rank}
    assert not wrong, f"toolkit/{relative(path)} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_bare_package_gives_no_public_name_and_nothing_outside_it_is_imported(path):
    # ``import toolkit`` then ``toolkit.load_config`` would bypass the import order.
    used = {node.attr for node in ast.walk(TREES[path])
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "toolkit"}
    assert all(name.startswith("__") for name in used)
    assert not {name.split(".")[0] for name in imported_modules(path)} & set(OUTSIDE)


def test_layers_need_torch_and_einops_only():
    outside = {name.split(".")[0] for path in FILES if top_level(path) == "layers" for name in imported_modules(path)}
    standard = {"collections", "contextlib", "functools", "math", "typing", "weakref"}
    assert outside - {"toolkit", "__future__"} <= {"torch", "einops"} | standard


def test_only_build_calls_a_registrys_build():
    callers = {relative(path) for path, tree in TREES.items() for node in ast.walk(tree)
               if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "build"
               and isinstance(node.func.value, ast.Name)
               and (node.func.value.id.isupper() or node.func.value.id == "registry")}
    assert callers == {"build.py"}


@pytest.mark.parametrize("path", [p for p in FILES if top_level(p) not in ("quantizers", "interop")], ids=relative)
def test_only_quantizers_and_interop_name_a_quantizer(path):
    assert "LFQ" not in path.read_text()


def test_folders_have_at_most_13_modules_unless_they_collect_one_thing_per_file():
    collections = {"quantizers", "networks", "interop"}
    sizes = {folder: len([*folder.glob("*.py")]) - (folder / "__init__.py").exists()
             for folder in {path.parent for path in FILES} if folder.name not in collections}
    assert not {relative(folder): size for folder, size in sizes.items() if size > 13}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_file_is_short_and_documented_and_prints_nothing(path):
    assert len(path.read_text().splitlines()) <= 400
    public = [node for node in TREES[path].body if isinstance(node, ast.ClassDef | ast.FunctionDef)
              and not node.name.startswith("_")]
    assert not [node for node in (TREES[path], *public) if not ast.get_docstring(node)], "a docstring is missing"
    assert "print" not in [node.func.id for node in ast.walk(TREES[path])
                           if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


def public_names() -> list[tuple[str, str]]:
    packages = [".".join(("toolkit", *path.parent.relative_to(PACKAGE).parts)) for path in FILES
                if path.name == "__init__.py"]
    return [(package, name) for package in packages for name in importlib.import_module(package).__all__]


@pytest.mark.parametrize(("package", "name"), public_names())
def test_public_name_has_an_example_that_runs(package, name):
    item = getattr(importlib.import_module(package), name)
    # An instance, such as a registry, is explained by its class; an alias of a builtin type has no docstring.
    docstring = inspect.getdoc(item if callable(item) else type(item)) or ""
    if getattr(item, "__module__", "").split(".")[0] == "toolkit":
        assert doctest.DocTestParser().get_examples(docstring), f"{package}.{name} has no example in its docstring"


@pytest.mark.parametrize("package", sorted({package for package, _ in public_names()}))
def test_every_public_name_is_there_once(package):
    module = importlib.import_module(package)
    names = module.__all__
    assert len(names) == len(set(names)) and all(hasattr(module, name) for name in names)
