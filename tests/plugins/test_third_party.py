"""plugins/README.md, followed word for word from an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from plugins.installed import TINY, install, run_with

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "plugins" / "README.md").read_text()
FILES = {name: f"# {name}\n{text}" for name, text in re.findall(r"```(?:toml|python)\n# (\S+)\n(.*?)```", GUIDE, re.S)}
HERE, THERE = re.findall(r"```bash\n(.*?)\n```", GUIDE, re.S)  # commands in the plugin's and in the toolkit's folder


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """(folder with the guide's files, where they are installed)."""
    folder = tmp_path_factory.mktemp("plugin") / "toolkit-ternary"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    install_command, *_ = HERE.split(" && ")
    assert install_command == "pip install -e ."
    return folder, install([folder], tmp_path_factory.mktemp("site"))


def test_guide_takes_under_forty_lines_of_python_and_toml():
    assert set(FILES) == {"pyproject.toml", "toolkit_ternary.py", "test_ternary.py"}
    assert sum(text.count("\n") for text in FILES.values()) < 40


def test_quantizer_of_the_guide_passes_its_own_test(plugin):
    folder, site = plugin
    assert HERE.split(" && ")[1] == "pytest"
    done = run_with(site, "-m", "pytest", cwd=folder)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_toolkit_lists_and_accepts_it(plugin):
    folder, site = plugin
    python, *arguments = shlex.split(HERE.split(" && ")[2])
    done = run_with(site, *arguments, cwd=folder, COLUMNS="200")
    assert python == "python" and done.returncode == 0, done.stdout + done.stderr
    line, = (line for line in done.stdout.splitlines() if "Ternary" in line)
    assert line.split()[:5] == ["quantizer", "Ternary", "toolkit-ternary", "0.1.0", "ok"]


def test_command_of_the_guide_trains_with_it(plugin, tmp_path):
    python, *arguments = shlex.split(THERE)
    arguments[arguments.index("--work-dir") + 1] = tmp_path / "run"
    done = run_with(plugin[1], *arguments, *TINY)
    assert python == "python" and done.returncode == 0, done.stderr[-3000:]
    config = json.loads((tmp_path / "run" / "tokenizer" / "config.json").read_text())
    assert config["quantizer"] == {"type": "Ternary", "dim": 8} and config["encoder"]["out_channels"] == 8
    provenance = json.loads((tmp_path / "run" / "run.json").read_text())
    assert provenance["plugins"] == {"toolkit-ternary": "0.1.0"}


def test_folders_and_files_that_the_guide_names_exist():
    named = re.findall(r"`((?:simvq|multiscale_bsq|timm_encoder)/[\w./]*)`", GUIDE)
    assert len(named) > 4 and all((ROOT / "plugins" / name).exists() for name in named)


def test_checks_and_groups_that_the_guide_names_exist():
    import toolkit.testing
    from toolkit.registry import ALL

    checks = set(re.findall(r"`(check_\w+)`", GUIDE))
    assert len(checks) == 9 and all(hasattr(toolkit.testing, check) for check in checks)
    assert set(re.findall(r"\| `(toolkit\.\w+)` \|", GUIDE)) == {registry.entry_point_group for registry in ALL}
