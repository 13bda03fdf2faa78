"""Components of installed plugins, with real distributions: listed without an import, used by name."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
import torch
from plugins_of_tests import BAD, DISTRIBUTIONS, MODULES, pip_install, write_distribution
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from toolkit import load_tokenizer, plugins, registry
from toolkit.contracts import AdversarialLoss, Loss, Quantizer
from toolkit.plugins import distributions_of
from toolkit.registry import LOSSES, QUANTIZERS, PluginError, Registry, UnknownComponentError


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """A folder with all the distributions of plugins_of_tests installed."""
    root = tmp_path_factory.mktemp("plugins")
    sources = [write_distribution(root / "sources" / name, name) for name in DISTRIBUTIONS]
    site = root / "site"
    pip_install("--target", site, *sources)
    return site


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
    own = Registry("quantizer", contracts=(Quantizer,), location="toolkit.quantizers", group="toolkit.quantizers")
    own.register_module()(QUANTIZERS.get("LFQ"))
    return own


def imported(site: Path) -> set[str]:
    """The modules of plugins that have run."""
    return {path.stem for path in site.glob("*.imported")}


def plugin_names(group: str = "toolkit.quantizers") -> set[str]:
    return {entry.name for entry in plugins.plugin_entries(group)}


def python(*arguments, site: Path, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(site), str(Path(registry.__file__).parent.parent)])
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": path, "COLUMNS": "500"} | environment)


def test_plugin_is_imported_at_its_first_use(site, quantizers):
    assert "GoodRound" in quantizers and "Round" not in quantizers and "round_quantizers" not in quantizers
    assert not imported(site)
    plugin = quantizers.get("GoodRound")
    assert imported(site) == {"round_quantizers"}
    assert plugin.__name__ == "Round" and quantizers.get("GoodRound") is plugin


def test_config_type_is_the_name_of_the_entry_point(site, quantizers):
    plugin = quantizers.build(dict(type="GoodRound", dim=3))
    assert plugin.config == {"type": "GoodRound", "dim": 3} == quantizers.build(plugin.config).config
    assert quantizers.build(dict(type="Plain")).config["type"] == "Plain"
    assert "Round" not in quantizers and "Round" not in QUANTIZERS and "Helper" not in LOSSES


def test_component_that_was_registered_by_hand_before_is_the_same(site, quantizers, caplog):
    import round_quantizers
    assert QUANTIZERS.get("Round") is round_quantizers.Round
    assert QUANTIZERS.build(dict(type="GoodRound")).config == {"type": "GoodRound", "dim": 1}
    quantizers.register_module(name="Plain")(round_quantizers.Plain)
    assert quantizers.get("Plain") is round_quantizers.Plain
    assert not [record for record in caplog.records if "Plain" in record.getMessage()]  # it is no clash


@pytest.mark.parametrize("name", ["round_quantizers:Round", "round_quantizers.Round", "toolkit-good", "Goodround",
                                  None, 3])
def test_nothing_but_a_plugins_name_resolves(site, quantizers, name):
    assert name not in quantizers
    with pytest.raises(UnknownComponentError):
        quantizers.get(name)
    assert not imported(site)


@pytest.mark.parametrize(("name", "cause", "message"), [
    ("BadImport", ModuleNotFoundError, "importing bad_import:Round failed (ModuleNotFoundError: No module named "),
    ("BadExit", SystemExit, "importing bad_exit:Round failed (SystemExit: 3)"),
    ("BadAttribute", AttributeError, "module 'bad_classes' has no attribute 'Missing'"),
    ("BadTaker", KeyError, "'VQ' cannot be replaced"),
    ("BadLoss", None, "must be its own subclass of Quantizer, got <class 'bad_classes.Nothing'>"),
    ("BadFunction", None, "must be its own subclass of Quantizer, got <function rounded"),
    ("BadModule", None, "must be its own subclass of Quantizer, got <module 'bad_classes'"),
    ("BadAlias", None, "must be its own subclass of Quantizer, got <class 'toolkit.quantizers.vq.VQ'>"),
    ("BadNowhere", None, "must be its own subclass of Quantizer, got <class '"),
    ("BadHalf", None, "lacks lookup of its contract"),
    ("BadText", Exception, "importing bad_text:Round failed (Mute)"),
])
def test_broken_plugin_is_an_error_for_that_name_only(site, quantizers, name, cause, message):
    kinds = (*registry.ALL, quantizers)
    before = [dict(kind.module_dict) for kind in kinds]
    for _ in range(2):  # nor does it work when asked again
        with pytest.raises(PluginError) as error:
            quantizers.build(dict(type=name))
    assert (error.value.distribution, error.value.version, error.value.status) == ("toolkit-bad", "1.0", "failed")
    assert str(error.value).startswith(f"quantizer '{name}' of toolkit-bad 1.0") and message in str(error.value)
    assert str(error.value).endswith("; pip install --upgrade toolkit-bad, or tell its author.")
    assert isinstance(error.value.__cause__, cause or type(None))
    assert [dict(kind.module_dict) for kind in kinds] == before
    assert QUANTIZERS.get("VQ").type_name == "VQ" and quantizers.build(dict(type="GoodRound"))


def test_interrupt_while_a_plugin_is_imported_stays_an_interrupt(site, quantizers):
    (site / "bad_exit.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        quantizers.get("BadExit")


def test_plugin_for_another_version_of_the_toolkit_is_refused_before_it_is_imported(site, quantizers):
    assert "Old" in quantizers
    with pytest.raises(PluginError, match=r"'Old' of toolkit-old 2.0 needs visual-tokenizer-toolkit<0.0.9, got "
                                          r".*; pip install versions of toolkit-old and ") as error:
        quantizers.get("Old")
    assert error.value.status == "incompatible" and not imported(site)


@pytest.mark.parametrize("requirement", ["visual-tokenizer-toolkit ~~ 1",
                                         "visual_tokenizer-toolkit>=0; python_version ~= 'abc'"])
def test_requirement_that_cannot_be_read_is_refused_before_the_import(site, quantizers, requirement):
    metadata = site / "toolkit_old-2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Visual.Tokenizer_Toolkit<0.0.9", requirement))
    os.utime(site)  # as an installation does
    with pytest.raises(PluginError, match=r"'Old' of toolkit-old 2.0: its requirement .* cannot be read"):
        quantizers.get("Old")
    assert not imported(site)


def test_constructor_that_raises_names_its_distribution(site, quantizers):
    with pytest.raises(PluginError, match=r"'Raises' of toolkit-bad 1.0 cannot be built \(RuntimeError: out of luck\)"):
        quantizers.build(dict(type="Raises"))


def test_group_that_no_kind_has_is_logged_with_the_nearest(site, quantizers, caplog):
    plugins.warn_once.cache_clear()
    file = site / "toolkit_old-2.0.dist-info" / "entry_points.txt"
    file.write_text(file.read_text().replace("toolkit.quantizers", "toolkit.quantizer"))
    os.utime(site)  # as an installation does
    assert "Old" not in quantizers
    assert "has the group 'toolkit.quantizer'; did its author mean toolkit.quantizers?" in caplog.text


def test_name_that_two_distributions_define_is_an_error_that_names_both(site, quantizers, monkeypatch):
    assert "Twice" in quantizers
    with pytest.raises(PluginError, match=r"'Twice' of toolkit-first 1.1 and of toolkit-second 1.2 has several ow"
                                          ) as error:
        quantizers.get("Twice")
    assert error.value.status == "clash" and error.value.distribution == "toolkit-first and toolkit-second"
    assert not imported(site)
    monkeypatch.setenv("TOOLKIT_PLUGINS", "toolkit-second")
    assert quantizers.get("Twice").__module__ == "second_quantizers" and imported(site) == {"second_quantizers"}


def test_built_in_name_is_not_replaced_and_logged_once(site, quantizers, caplog):
    built_in = QUANTIZERS.get("LFQ")
    plugins.warn_once.cache_clear()
    assert quantizers.get("LFQ") is built_in and quantizers.get("LFQ") is built_in and not imported(site)
    record, = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith(
        "quantizer 'LFQ' of toolkit-duplicate 6.6 is also the name of toolkit.quantizers")


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


def test_unknown_name_gets_the_nearest_and_how_to_install(site, quantizers):
    with pytest.raises(UnknownComponentError, match=r"did you mean 'GoodRound'.*BadImport, .*comes from a plugin: "
                                                    r"install its distribution, .*`pip install <distribution>`; `pyt"):
        quantizers.get("GoodRoun")
    assert not imported(site)


def test_uninstalled_plugins_name_is_unknown(site, quantizers):
    assert "GoodRound" in quantizers
    shutil.rmtree(site / "toolkit_good-0.3.1.dist-info")
    (site / "round_quantizers.py").unlink()
    assert "GoodRound" not in quantizers
    with pytest.raises(UnknownComponentError, match=r"no quantizer is called 'GoodRound'.*install its distribution"):
        quantizers.get("GoodRound")


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
    source = Path(shutil.copytree(installed.parent / "sources" / "Toolkit_Good", tmp_path / "source"))
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
    done = python("-c", f"import site, sys; site.addsitedir({str(folder)!r})\n"
                  "from toolkit.plugins import plugin_entries\nfrom importlib.util import find_spec\n"
                  "print(*plugin_entries('toolkit.quantizers'), find_spec('first_quantizers').origin, "
                  "'torch' in sys.modules)",
                  site=tmp_path, TOOLKIT_PLUGINS="toolkit-first")
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
    done = python("-m", "toolkit", "--check", site=site, TOOLKIT_PLUGINS=",".join(DISTRIBUTIONS))
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
    helped, refused = python("-m", "toolkit", "--help", site=site), python("-m", "toolkit", "--chekc", site=site)
    assert helped.returncode == 0 and "--check" in helped.stdout and "python -m toolkit" in helped.stdout
    assert refused.returncode == 2 and not imported(site)


USE = """
import json, sys, torch
from safetensors import safe_open
from toolkit import QUANTIZERS, build_tokenizer, load_config, load_tokenizer
from toolkit.build import build_trainer
from toolkit.training.run_dir import provenance

folder, work_dir = sys.argv[1:]
config = load_config("configs/demo_video.py", {"data.train.num_workers": 0, "data.train.batch_size": 1})
config.tokenizer.quantizer = dict(type="GoodRound", dim=5)
config.objective.adversarial = dict(loss=dict(type="WassersteinLoss"))
config.discriminator = dict(type="StyleGANDiscriminator", filters=8, channel_multipliers=(2,), size=(9, 32, 32))
config.metrics = [dict(type="Frames")]
tokenizer = build_tokenizer(config.tokenizer).eval()
tokenizer.save_pretrained(folder)
pixels = torch.rand(1, 3, 5, 16, 16) * 2 - 1
same = torch.equal(load_tokenizer(folder).tokenize(pixels), tokenizer.tokenize(pixels))
trainer = build_trainer(config, work_dir=work_dir)
print(json.dumps(dict(same=same, config=tokenizer.config["quantizer"], provenance=provenance(0, trainer)["plugins"])))
"""


@pytest.fixture(scope="module")
def used(installed, tmp_path_factory) -> tuple[Path, dict]:
    """A tokenizer directory made with a plugin's quantizer, and what the process that made it saw."""
    folder = tmp_path_factory.mktemp("used")
    done = python("-c", USE, str(folder / "tokenizer"), str(folder / "work_dir"), site=installed)
    assert done.returncode == 0, done.stderr
    return folder / "tokenizer", json.loads(done.stdout.splitlines()[-1])


def test_plugins_quantizer_is_built_saved_and_loaded_by_its_name(used):
    _, seen = used
    assert seen["same"] and seen["config"] == {"type": "GoodRound", "dim": 5}


def test_run_and_weights_record_their_plugins(used):
    directory, seen = used
    assert seen["provenance"] == {"toolkit-good": "0.3.1", "toolkit-second": "1.2", "toolkit-duplicate": "6.6"}
    with safe_open(directory / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["plugins"]) == {"toolkit-good": "0.3.1"}


def test_tokenizer_of_a_plugin_that_is_not_installed_names_it(used, tmp_path):
    directory, _ = used
    with pytest.raises(UnknownComponentError, match=r"no quantizer is called 'GoodRound'.*This tokenizer was written "
                                                    r"with toolkit-good 0.3.1; pip install it\."):
        load_tokenizer(directory)
    damaged = Path(shutil.copytree(directory, tmp_path / "damaged"))
    save_file(load_file(directory / "model.safetensors"), damaged / "model.safetensors", {"plugins": "{"})
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        load_tokenizer(damaged)


def test_distribution_of_a_class_defines_it_or_its_parent(site, quantizers):
    component = quantizers.get("GoodRound")
    import second_quantizers
    assert distributions_of([Quantizer, QUANTIZERS.get("LFQ"), int, AdversarialLoss, Loss, torch.nn.Linear]) == {}
    mine = type("Mine", (second_quantizers.WassersteinLoss,), {})
    assert distributions_of([component, mine]) == {"toolkit-good": "0.3.1", "toolkit-second": "1.2"}
