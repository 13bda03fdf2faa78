"""Registries: no unregistered name resolves, no registered class is replaced."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from toolkit import registry
from toolkit.contracts import AdversarialLoss, Loss, Metric, Quantizer
from toolkit.registry import ALL, ENCODERS, LOSSES, QUANTIZERS, Registry, UnknownComponentError


@pytest.fixture
def losses() -> Registry:
    """A separate registry, so that no test leaves a component behind."""
    return Registry("loss", contracts=(Loss, AdversarialLoss), location="toolkit.losses")


class Zero(Loss):
    """A loss of nothing."""

    def __init__(self, *, factor: float, power: int = 2):
        super().__init__()

    def forward(self, output, target):
        return target.new_zeros(())


@pytest.mark.parametrize("name", ["json", "os.getcwd", "os.system", "toolkit.quantizers.LFQ", "toolkit.LFQ",
                                  "toolkit.quantizers.lfq.LFQ", "torch.nn.Identity", "lfq", "", None, 3])
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_only_registered_names_resolve_and_building_others_runs_nothing(kind, name, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", lambda command="": ran.append(command))
    assert name not in kind
    with pytest.raises(UnknownComponentError):
        kind.get(name)
    for arguments in ({}, dict(command="true")):
        with pytest.raises(UnknownComponentError if isinstance(name, str) else TypeError):
            kind.build(dict(type=name, **arguments))
    assert ran == []


@pytest.mark.parametrize("cfg", [None, "LFQ", [], {}, dict(bits=3), dict(type=None), dict(type=Quantizer)])
def test_config_without_a_type_name_is_refused(cfg):
    with pytest.raises(TypeError, match=r"a quantizer is configured as dict\(type='Name', ...\), got "):
        QUANTIZERS.build(cfg)


def test_built_in_components_are_found_without_an_import_of_their_folder():
    code = "from toolkit.registry import ALL; print(*(name in kind for kind, name in zip(ALL, " \
           "['MAGVIT2Encoder', 'MAGVIT2Decoder', 'LFQ', 'StyleGANDiscriminator', 'L1', 'PSNR', 'VideoClips'])))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 7


def test_registered_class_is_built_and_its_config_has_its_name(losses):
    losses.register_module()(Zero)
    component = losses.build(dict(type="Zero", factor=3.0))
    assert type(component) is Zero and component.config == {"type": "Zero", "factor": 3.0, "power": 2}


def test_component_is_configured_by_its_first_registered_name_which_a_subclass_does_not_inherit(losses):
    named = type("Named", (Zero,), {})
    losses.register_module(name="none_at_all")(named)
    losses.register_module(name="second")(named)
    config = losses.build(dict(type="none_at_all", factor=1)).config
    assert config["type"] == "none_at_all" and losses.build(config).config == config
    assert losses.build(dict(type="second", factor=1)).config == config
    assert "Named" not in losses and type("Child", (named,), {})(factor=1).config["type"] == "Child"


@pytest.mark.parametrize(("name", "force", "words"), [
    ("Zero", False, "'Zero' cannot be replaced"), ("Zero", True, "'Zero': force=True is not supported"),
    ("New", True, "'New': force=True is not supported")])
def test_second_class_under_a_name_and_force_are_refused(losses, name, force, words):
    losses.register_module()(Zero)
    with pytest.raises(KeyError, match=words):
        losses.register_module(name=name, force=force)(type("Other", (Zero,), {}))
    assert losses.get("Zero") is Zero and "New" not in losses


def test_built_in_name_cannot_be_replaced():
    with pytest.raises(KeyError, match="cannot be replaced"):
        QUANTIZERS.register_module(name="LFQ")(type("LFQ", (QUANTIZERS.get("LFQ"),), {}))


@pytest.mark.parametrize("module", [dict, type("Score", (Metric,), {}), len])
def test_class_of_another_contract_is_refused(losses, module):
    with pytest.raises(TypeError, match="must be a subclass of Loss or AdversarialLoss"):
        losses.register_module(module=module)
    assert module.__name__ not in losses


def test_all_unknown_and_missing_arguments_are_reported(losses):
    losses.register_module()(Zero)
    with pytest.raises(TypeError) as error:
        losses.build(dict(type="Zero", levels=[8], faktor=2))
    message = str(error.value)
    assert "loss 'Zero': unexpected 'levels', 'faktor'; missing 'factor'; it takes (factor, power)." in message
    assert "loss=dict(_delete_=True, type=...)" in message


@pytest.mark.parametrize("name", ["self", "args", "kwargs", "type_name"])
def test_constructor_internals_are_no_arguments(name):
    with pytest.raises(TypeError, match=f"unexpected '{name}'"):
        QUANTIZERS.build({"type": "LFQ", name: 1})


def test_component_without_a_constructor_takes_no_arguments():
    with pytest.raises(TypeError, match="loss 'L1': unexpected 'weight'"):
        LOSSES.build(dict(type="L1", weight=1.0))


def test_unknown_name_gets_the_nearest_names():
    with pytest.raises(UnknownComponentError, match=r"called 'MAGVITEncoder'\. did you mean 'MAGVIT2Encoder'"):
        ENCODERS.build(dict(type="MAGVITEncoder"))


def test_building_does_not_change_the_config():
    config = dict(type="LFQ", bits=3)
    QUANTIZERS.build(config, num_codebooks=2)
    assert config == dict(type="LFQ", bits=3)


def test_listing_names_every_component_with_its_kind_and_first_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "250")
    registry.main()
    lines = capsys.readouterr().out.splitlines()
    for kind in ALL:
        for name, component in kind.module_dict.items():
            line, = (line for line in lines if " ".join(line.split()).startswith(f"{kind.name} {name} "))
            assert component.__module__ in line and (component.__doc__ or "").split("\n")[0][:30] in line
