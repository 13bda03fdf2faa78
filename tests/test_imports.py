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

# A package or module may import those of lower rank and itself, but no other of its own rank.
RANKS = [("contracts",), ("io",), ("assets",), ("layers",), ("plugins",), ("registry",), ("config",), ("saving",),
         ("pretrained",), ("networks", "quantizers", "losses", "metrics", "baselines", "data"),
         ("streaming",), ("tokenizer",), ("training",), ("build",), ("run",),
         ("evaluation", "interop", "testing", "reconstruction", "tokens", "profiling")]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
OUTSIDE = ("plugins", "tools", "benchmarks", "tests", "configs")


def top_level(path: Path) -> str:
    """The first name below toolkit: "layers" for toolkit/layers/norm.py, "build" for toolkit/build.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(path: Path) -> list[str]:
    """Every absolute module name a file imports, those within functions included."""
    package = ["toolkit", *path.relative_to(PACKAGE).parent.parts]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            # ``from toolkit import x`` may import a module, so the names count too.
            found += [".".join(base)] if base != ["toolkit"] else [f"toolkit.{alias.name}" for alias in node.names]
    return found


def top_level_imports(path: Path) -> set[str]:
    names = set()
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "toolkit":
            home = toolkit._HOME.get(parts[1]) if len(parts) == 2 else None  # a public name stands for its module
            names.add((home or name).split(".")[1] if len(parts) > 1 else "toolkit")
    return names


def documented(path: Path) -> list[ast.ClassDef | ast.FunctionDef]:
    """The public classes and functions that a file defines."""
    return [node for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")]


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_module_has_a_rank():
    names = {top_level(path) for path in FILES} - {"__init__", "__main__"}
    assert names <= set(RANK)


@pytest.mark.parametrize("path", [p for p in FILES if top_level(p) not in ("__init__", "__main__")], ids=relative)
def test_imports_go_to_lower_ranks_only(path):
    own = top_level(path)
    wrong = {other for other in top_level_imports(path)
             if other not in (own, "toolkit") and not RANK.get(other, len(RANKS)) < RANK[own]}
    assert not wrong, f"toolkit/{relative(path)} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_bare_package_gives_no_public_name(path):
    # ``import toolkit`` then ``toolkit.load_config`` would bypass the import order.
    used = {node.attr for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "toolkit"}
    assert all(name.startswith("__") for name in used)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_package_never_imports_what_stands_outside_it(path):
    assert not {name.split(".")[0] for name in imported_modules(path)} & set(OUTSIDE)


def test_layers_need_torch_and_einops_only():
    outside = {name.split(".")[0] for path in FILES if top_level(path) == "layers" for name in imported_modules(path)}
    standard = {"collections", "functools", "math", "typing", "weakref"}
    assert outside - {"toolkit", "__future__"} <= {"torch", "einops"} | standard


def test_only_build_calls_a_registrys_build():
    callers = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "build"
                    and isinstance(node.func.value, ast.Name) and (node.func.value.id.isupper()
                                                                   or node.func.value.id == "registry")):
                callers.add(relative(path))
    assert callers == {"build.py"}


@pytest.mark.parametrize("path", [p for p in FILES if top_level(p) not in ("quantizers", "interop")], ids=relative)
def test_only_quantizers_and_interop_name_a_quantizer(path):
    assert "LFQ" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_stay_under_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_folders_have_at_most_13_modules_unless_they_collect_one_thing_per_file():
    collections = {"quantizers", "networks", "interop"}
    sizes = {folder: len([*folder.glob("*.py")]) - (folder / "__init__.py").exists()
             for folder in {path.parent for path in FILES} if folder.name not in collections}
    assert not {relative(folder): size for folder, size in sizes.items() if size > 13}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_file_and_everything_public_in_it_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    bare = [node.name for node in documented(path) if not ast.get_docstring(node)]
    assert ast.get_docstring(tree) and not bare, f"toolkit/{relative(path)}: no docstring on {bare}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_package_prints_nothing(path):
    calls = [node.func.id for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert "print" not in calls


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
