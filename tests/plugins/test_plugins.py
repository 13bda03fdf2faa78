"""Components of installed plugins, used by name; a broken one is an error for its own name only."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from plugins.installed import run_with
from plugins_of_tests import imported
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from toolkit import load_tokenizer, plugins, registry
from toolkit.contracts import AdversarialLoss, Loss, Quantizer
from toolkit.plugins import distributions_of
from toolkit.registry import LOSSES, QUANTIZERS, PluginError, UnknownComponentError


def test_plugin_is_imported_at_its_first_use(site, quantizers):
    assert "GoodRound" in quantizers and "Round" not in quantizers and "round_quantizers" not in quantizers
    assert not imported(site)
    plugin = quantizers.get("GoodRound")
    assert imported(site) == {"round_quantizers"}
    assert plugin.__name__ == "Round" and quantizers.get("GoodRound") is plugin
    # The config's type is the name of the entry point.
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
    copy = pickle.loads(pickle.dumps(error.value))
    assert str(copy) == str(error.value) and (copy.distribution, copy.status) == ("toolkit-old", "incompatible")


@pytest.mark.parametrize("requirement", ["visual-tokenizer-toolkit ~~ 1", "numpy (>1.0.*)",
                                         "visual_tokenizer-toolkit>=0; python_version ~= 'abc'"])
def test_unreadable_requirement_of_the_toolkit_is_refused_before_the_import(site, quantizers, requirement):
    metadata = site / "toolkit_old-2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Visual.Tokenizer_Toolkit<0.0.9", requirement))
    os.utime(site)  # as an installation does
    if requirement.startswith("numpy"):  # that of another package does not matter
        assert quantizers.get("Old").__name__ == "Old"
        return
    with pytest.raises(PluginError, match=r"'Old' of toolkit-old 2.0: its requirement .* cannot be read"):
        quantizers.get("Old")
    assert not imported(site)


def test_constructor_that_raises_names_its_distribution(site, quantizers):
    with pytest.raises(PluginError, match=r"'Raises' of toolkit-bad 1.0 cannot be built \(RuntimeError: out of luck\)"):
        quantizers.build(dict(type="Raises"))


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
plugins = provenance(trainer, seed=0)["plugins"]
print(json.dumps(dict(same=same, config=tokenizer.config["quantizer"], provenance=plugins)))
"""


@pytest.fixture(scope="module")
def used(installed, tmp_path_factory) -> tuple[Path, dict]:
    """A tokenizer directory made with a plugin's quantizer, and what the process that made it saw."""
    folder = tmp_path_factory.mktemp("used")
    site = Path(shutil.copytree(installed, folder / "site"))
    done = run_with(site, "-c", USE, folder / "tokenizer", folder / "work_dir")
    assert done.returncode == 0, done.stderr
    return folder / "tokenizer", json.loads(done.stdout.splitlines()[-1])


def test_plugins_quantizer_is_built_saved_and_loaded_by_its_name_and_run_and_weights_record_it(used):
    directory, seen = used
    assert seen["same"] and seen["config"] == {"type": "GoodRound", "dim": 5}
    assert seen["provenance"] == {"toolkit-good": "0.3.1", "toolkit-second": "1.2", "toolkit-duplicate": "6.6"}
    with safe_open(directory / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["plugins"]) == {"toolkit-good": "0.3.1"}


def test_weights_without_plugins_have_none_in_their_metadata_and_load(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    weights = load_tokenizer(tmp_path).state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in tokenizer.state_dict().items())


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
