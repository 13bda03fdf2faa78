"""Plugins are listed from the metadata of real distributions, without an import."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from plugins.installed import pip_install, run_with
from plugins_of_tests import BAD, DISTRIBUTIONS, imported, plugin_names, write_distribution

from toolkit import plugins, registry
from toolkit.registry import UnknownComponentError


def test_group_that_no_kind_has_is_logged_with_the_nearest(site, quantizers, caplog):
    plugins.warn_once.cache_clear()
    file = site / "toolkit_old-2.0.dist-info" / "entry_points.txt"
    file.write_text(file.read_text().replace("toolkit.quantizers", "toolkit.quantizer"))
    os.utime(site)  # as an installation does
    assert "Old" not in quantizers
    assert "has the group 'toolkit.quantizer'; did its author mean toolkit.quantizers?" in caplog.text


def test_distribution_name_comes_from_its_metadata(site):
    (site / "toolkit_good-0.3.1.dist-info").rename(site / "toolkit-another-name-0.3.1.dist-info")
    os.utime(site)  # as an installation does
    entry, = (entry for entry in plugins.plugin_entries("toolkit.quantizers") if entry.name == "GoodRound")
    assert str(entry) == "toolkit-good 0.3.1"


def test_unreadable_file_is_logged_and_other_plugins_work(site, quantizers, caplog):
    for file, content in {"toolkit_bad-1.0.dist-info": b"[toolkit.quantizers\nno section",
                          "toolkit_first-1.1.dist-info": b"\xff\xfe",
                          "toolkit_old-2.0.dist-info": b"[toolkit.quantizers]\nOld = a:A\nOld = b:B\n"}.items():
        (site / file / "entry_points.txt").write_bytes(content)
    os.utime(site)  # as an installation does
    (site / "toolkit_duplicate-6.6.dist-info" / "METADATA").write_bytes(b"Name: \xff\xfe\n")
    assert {"GoodRound", "Twice"} <= plugin_names() and not {*BAD, "Old", "LFQ"} & plugin_names()
    assert quantizers.build(dict(type="GoodRound", dim=2)).dim == 2
    assert quantizers.get("Twice").__module__ == "second_quantizers"
    logged = [record.getMessage() for record in caplog.records]
    logged = [line for line in logged if "cannot be read" in line]
    assert len(logged) == 4  # once, however often it is read
    for name in ("toolkit_bad-1.0", "toolkit_first-1.1", "toolkit_old-2.0", "toolkit_duplicate-6.6"):
        assert sum(f"{name}.dist-info: its entry points cannot be read" in line for line in logged) == 1


def test_unparsable_entry_is_logged_and_other_entries_work(site, caplog, recwarn):
    file = site / "toolkit_good-0.3.1.dist-info" / "entry_points.txt"
    file.write_text(file.read_text() + "Odd = no entry point!\nPercent = 100%(x)s\nLast = round_quantizers:Plain\n")
    os.utime(site)  # as an installation does
    assert {"GoodRound", "Plain", "Last"} <= plugin_names() and not {"Odd", "Percent"} & plugin_names()
    assert [str(file) in record.getMessage() for record in caplog.records] == [True, True]
    assert "Odd = no entry point!" in caplog.text and not recwarn.list


@pytest.mark.parametrize(("setting", "names"), [
    (None, {"GoodRound", "Plain", "Old", "Twice", "LFQ", "Raises", *BAD}), ("", set()), (" , ", set()),
    ("toolkit-good", {"GoodRound", "Plain"}), ("Toolkit_Good", {"GoodRound", "Plain"}),
    ("TOOLKIT.good , toolkit--OLD", {"GoodRound", "Plain", "Old"})])
def test_allow_list_accepts_any_spelling_of_a_distribution(site, quantizers, monkeypatch, setting, names):
    if setting is not None:
        monkeypatch.setenv("TOOLKIT_PLUGINS", setting)
    ours = {name for _, _, _, groups in DISTRIBUTIONS.values() for name in groups.get("quantizers", {})}
    assert plugin_names() & ours == names
    assert {name for name in ours if name in quantizers} == names | {"LFQ"}


def test_name_in_the_allow_list_that_is_not_installed_is_logged(site, monkeypatch, caplog):
    monkeypatch.setenv("TOOLKIT_PLUGINS", "toolkit-good,Toolkit_Nowhere")
    assert plugin_names() == plugin_names() == {"GoodRound", "Plain"}
    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["TOOLKIT_PLUGINS names toolkit-nowhere"]


def test_error_names_the_allow_list_that_excludes_a_plugin(site, quantizers, monkeypatch):
    monkeypatch.setenv("TOOLKIT_PLUGINS", "")
    with pytest.raises(UnknownComponentError, match=r"is in toolkit-good 0.3.1, which TOOLKIT_PLUGINS='' excludes"
                                                    r"; add toolkit-good to it."):
        quantizers.get("GoodRound")
    assert quantizers.get("LFQ") and not imported(site)


def test_first_of_two_equal_distributions_on_the_path_shadows_the_later(site, tmp_path, monkeypatch):
    newer = tmp_path / "newer" / "TOOLKIT.Good-9.egg-info"
    newer.mkdir(parents=True)
    (newer / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: toolkit.good\nVersion: 9\n")
    (tmp_path / "newer" / "toolkit_old-3.dist-info").mkdir()  # without metadata it is nothing
    monkeypatch.syspath_prepend(newer.parent)
    assert "GoodRound" not in plugin_names() and "Old" in plugin_names()
    (newer / "entry_points.txt").write_text("[toolkit.quantizers]\nNine = round_quantizers:Round\n")
    os.utime(newer.parent, ns=(0, 0))  # as an installation does
    assert "Nine" in plugin_names() and "GoodRound" not in plugin_names()


def test_source_folder_with_egg_info_on_the_path_is_an_installation(installed, tmp_path, monkeypatch, quantizers):
    source = Path(shutil.copytree(installed.parent / "site_sources" / "Toolkit_Good", tmp_path / "source"))
    assert (source / "Toolkit_Good.egg-info" / "entry_points.txt").is_file()
    monkeypatch.setattr(plugins, "_LOADED", set())
    monkeypatch.syspath_prepend(source)
    entry, = (entry for entry in plugins.plugin_entries("toolkit.quantizers") if entry.name == "GoodRound")
    wanted = PathDistribution(installed / "toolkit_good-0.3.1.dist-info")
    assert (str(entry), entry.summary) == ("toolkit-good 0.3.1", wanted.metadata["Summary"])
    assert len(entry.requires) == len(wanted.requires) == 3
    assert quantizers.get("GoodRound").__name__ == "Round" and imported(source) == {"round_quantizers"}
    del sys.modules["round_quantizers"]


def test_editable_installation_is_found_without_torch(installed, tmp_path):
    source = write_distribution(tmp_path / "source", "toolkit-first")
    pip_install("--prefix", tmp_path / "prefix", "--editable", source)
    folder, = (tmp_path / "prefix").rglob("site-packages")
    done = run_with(tmp_path, "-c", f"import site, sys; site.addsitedir({str(folder)!r})\n"
                    "from toolkit.plugins import plugin_entries\nfrom importlib.util import find_spec\n"
                    "print(*plugin_entries('toolkit.quantizers'), find_spec('first_quantizers').origin, "
                    "'torch' in sys.modules)", TOOLKIT_PLUGINS="toolkit-first")
    assert done.stdout.split() == ["toolkit-first", "1.1", str(source / "first_quantizers.py"), "False"], done.stderr


def test_listing_has_every_plugin_with_its_source_and_summary_and_imports_nothing(site, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "500")
    assert registry.main() == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "quantizer GoodRound toolkit-good 0.3.1 [Toolkit_Good] in a line".split() in lines
    assert "metric Frames toolkit-duplicate 6.6 [toolkit-duplicate] in a line".split() in lines
    assert "loss WassersteinLoss toolkit-second 1.2 [toolkit-second] in a line".split() in lines
    for name, source in {"LFQ": "toolkit-duplicate", "Twice": "toolkit-first"}.items():
        line, = (line for line in lines if line[:3] == ["quantizer", name, source])
        assert line[4] == "clash"
    assert any(line[:3] == ["quantizer", "LFQ", "toolkit.quantizers.lfq"] for line in lines)
    assert not imported(site)


def test_check_lists_the_state_of_each_plugin(site):
    done = run_with(site, "-m", "toolkit", "--check", COLUMNS="500", TOOLKIT_PLUGINS=",".join(DISTRIBUTIONS))
    assert done.returncode == 1, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    states = {(line[1], line[2]): line[4] for line in lines if line[2] in {name.lower().replace("_", "-")
                                                                           for name in DISTRIBUTIONS}}
    assert states == {("GoodRound", "toolkit-good"): "ok", ("Plain", "toolkit-good"): "ok",
                      ("WassersteinLoss", "toolkit-second"): "ok", ("Frames", "toolkit-duplicate"): "ok",
                      ("Raises", "toolkit-bad"): "ok", ("Old", "toolkit-old"): "incompatible",
                      ("LFQ", "toolkit-duplicate"): "clash",
                      ("Twice", "toolkit-first"): "clash", ("Twice", "toolkit-second"): "clash",
                      **{(name, "toolkit-bad"): "failed" for name in BAD}}
    assert "needs visual-tokenizer-toolkit<0.0.9, got" in done.stdout
    assert "(ModuleNotFoundError: No module named 'no_such_module_anywhere')" in done.stdout
    assert "old_quantizers" not in imported(site) and "first_quantizers" not in imported(site)


def test_check_of_good_plugins_succeeds_twice(site, monkeypatch, capsys):
    monkeypatch.setenv("TOOLKIT_PLUGINS", "Toolkit.Good")
    monkeypatch.setenv("COLUMNS", "500")
    for _ in range(2):
        assert registry.main(check=True) == 0
        lines = [line.split()[:5] for line in capsys.readouterr().out.splitlines()]
        assert [line for line in lines if line[2] == "toolkit-good"] == [
            ["quantizer", name, "toolkit-good", "0.3.1", "ok"] for name in ("GoodRound", "Plain")]
        assert not any(line[1] in {"BadImport", "Round"} for line in lines)


def test_command_line_has_help_and_refuses_unknown_options(site):
    helped, refused = (run_with(site, "-m", "toolkit", option) for option in ("--help", "--chekc"))
    assert helped.returncode == 0 and "--check" in helped.stdout and "python -m toolkit" in helped.stdout
    assert refused.returncode == 2 and not imported(site)
