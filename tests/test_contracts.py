"""Base classes of components: layout, precision, checks, and their config."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from toolkit import load_tokenizer
from toolkit.contracts import Component, DataError, Decoder, Encoder, Metric, Quantizer, constructor_parameters
from toolkit.networks import MAGVIT2Encoder
from toolkit.quantizers import LFQ, Identity
from toolkit.registry import QUANTIZERS


class Recorder(Quantizer):
    """A quantizer of five integers that stores its input."""

    def __init__(self, *, dim: int = 2, children_of_it: list | None = None):
        super().__init__()
        self.dim, self.codebook_size, self.num_codebooks = dim, 5, dim

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        self.seen, self.autocast = z, torch.is_autocast_enabled("cpu")
        indices = z.detach().clamp(0, 4).round().long()
        return z + (indices - z).detach(), indices, {"mean": z.mean()}

    def lookup(self, indices: Tensor) -> Tensor:
        return indices.float()


class Wide(LFQ):
    """Forwards the arguments that it does not know."""

    def __init__(self, *, extra_bits: int = 1, **kwargs):
        super().__init__(bits=3 + extra_bits, **kwargs)


class Wider(Wide):
    """Forwards twice."""

    def __init__(self, **kwargs):
        super().__init__(extra_bits=2, **kwargs)


class Bag(Component):
    """Its names are declared nowhere."""

    def __init__(self, *args, **options):
        self.args, self.options = args, options


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setitem(QUANTIZERS.module_dict, "Wide", Wide)
    return "Wide"


def test_arguments_forwarded_to_a_parent_survive_saving(make_tokenizer, wide, tmp_path):
    tokenizer = make_tokenizer(quantizer=dict(type=wide, bit_order="lsb_first"))
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    pixels = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert loaded.config == tokenizer.config and loaded.config["quantizer"]["bit_order"] == "lsb_first"
    assert torch.equal(loaded.tokenize(pixels), tokenizer.tokenize(pixels))


def test_forwarded_arguments_are_recorded_under_the_parents_names(wide):
    assert Wide(scale=2.0).config == {"type": "Wide", "extra_bits": 1, "scale": 2.0}
    assert Wider(sign_of_zero=1).config == {"type": "Wider", "sign_of_zero": 1}
    assert list(constructor_parameters(Wider))[:3] == ["extra_bits", "bits", "num_codebooks"]
    with pytest.raises(TypeError, match=r"quantizer 'Wide': unexpected 'bit_oder'; it takes \(extra_bits, bits, "):
        QUANTIZERS.build(dict(type=wide, bit_oder="lsb_first"))


@pytest.mark.parametrize(("args", "kwargs"), [((1,), {}), ((), dict(anything=1))])
def test_arguments_that_cannot_be_recorded_are_a_type_error(args, kwargs):
    with pytest.raises(TypeError, match=r"Bag records its arguments by name and takes \(\), got \["):
        Bag(*args, **kwargs)


@pytest.mark.parametrize("value", [{1: 7}, torch.zeros(2), torch.nn.ReLU, {"list": [{2.0: 1}]}], ids=str)
def test_a_value_that_json_would_change_is_a_type_error(value):
    with pytest.raises(TypeError, match="Recorder cannot record its arguments: needed components, lists, dicts with"):
        Recorder(children_of_it=value)


def test_a_class_with_the_name_of_a_registered_one_is_not_saved(make_tokenizer, tmp_path):
    tokenizer = make_tokenizer(bits=6)
    tokenizer.quantizer = type("LFQ", (LFQ,), {})(bits=6)
    with pytest.raises(TypeError, match=r"quantizer 'LFQ' cannot be saved.*give the class another name"):
        tokenizer.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("alone", "size", "grid", "fitting"), [
    (True, (1, 8, 8), (1, 1, 2), (1, 8, 8)), (True, (2, 9, 5), (2, 2, 2), (5, 16, 8)),
    (False, (1, 8, 8), (1, 1, 2), (4, 8, 8)), (False, (5, 1, 4), (2, 1, 1), (8, 8, 4))])
def test_grid_and_fitting_size_follow_the_stride(alone, size, grid, fitting):
    coder = {"stride": (4, 8, 4), "first_frame_alone": alone, "forward": lambda self, x, cache=None: x}
    encoder = type("Any", (Encoder,), coder)()
    decoder = type("Any", (Decoder,), coder | {"last_layer": None})()
    assert (encoder.grid(size), encoder.fitting_size(size), decoder.pixel_size(grid)) == (grid, fitting, fitting)


@torch.no_grad()
def test_author_sees_flat_positions_and_codes_and_indices_have_those_of_their_latents():
    latents = torch.randint(0, 5, (2, 2, 2, 3, 4)).float()
    quantizer = Recorder()
    out = quantizer(latents)
    assert torch.equal(quantizer.seen, latents.flatten(2).mT)  # columns fastest
    assert torch.equal(out.codes, latents)
    assert torch.equal(out.indices, latents.permute(0, 2, 3, 4, 1).long())
    assert torch.equal(Recorder().codes_from_indices(out.indices), latents)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_author_computes_in_float32_outside_autocast_whatever_comes_in(dtype):
    quantizer = Recorder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = quantizer(torch.ones(1, 2, 1, 1, 2, dtype=dtype))
    assert quantizer.seen.dtype == torch.float32 and not quantizer.autocast
    assert out.codes.dtype == dtype


def test_losses_reach_the_caller_in_training_only():
    latents = torch.ones(1, 2, 1, 1, 2)
    assert list(Recorder().train()(latents).losses) == ["mean"]
    assert Recorder().eval()(latents).losses == {}


@pytest.mark.parametrize("shape", [(1, 3, 1, 4, 4), (1, 2, 4, 4), (2, 4, 4), (1, 1, 2, 4, 4)])
def test_latents_of_another_shape_are_refused_with_the_cure(shape):
    with pytest.raises(ValueError) as error:
        Recorder()(torch.zeros(shape))
    assert str(error.value) == (f"Recorder needs latents (B, 2, t, h, w), got {shape}; "
                                "set the encoder's out_channels to 2.")


@pytest.mark.parametrize("indices", [
    torch.zeros(1, 1, 2, 2, dtype=torch.int64), torch.zeros(1, 1, 2, 2, 1, dtype=torch.int64),
    torch.zeros(1, 1, 2, 2, 2), torch.full((1, 1, 2, 2, 2), 0.7)])
def test_indices_of_another_shape_or_kind_are_refused(indices):
    with pytest.raises(ValueError, match=r"Recorder needs integer indices \(B, t, h, w, 2\), got"):
        Recorder().codes_from_indices(indices)


@pytest.mark.parametrize("value", [-1, 5, 2**40])
def test_indices_outside_the_codebook_are_refused(value):
    indices = torch.zeros(1, 1, 2, 2, 2, dtype=torch.int64)
    indices[0, 0, 1, 1, 0] = value
    with pytest.raises(ValueError, match=rf"indices in \[0, 5\), got .*{value}"):
        Recorder().codes_from_indices(indices)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32, torch.int64])
def test_indices_of_any_integer_dtype_are_looked_up(dtype):
    indices = torch.tensor([0, 4, 3, 1]).reshape(1, 1, 1, 2, 2)
    assert Recorder().codes_from_indices(indices.to(dtype)).flatten().tolist() == [0.0, 3.0, 4.0, 1.0]


@torch.no_grad()
def test_no_positions_are_no_error():
    out = Recorder()(torch.zeros(0, 2, 1, 2, 2))
    assert Recorder().codes_from_indices(out.indices).shape == (0, 2, 1, 2, 2)


def test_indices_of_a_continuous_bottleneck_are_refused():
    quantizer = Identity(dim=2)
    assert quantizer(torch.ones(1, 2, 1, 1, 1)).indices is None
    with pytest.raises(ValueError, match="Identity is continuous and has no indices"):
        quantizer.codes_from_indices(torch.zeros(1, 1, 1, 1, 2, dtype=torch.int64))


def test_config_has_every_argument_including_defaults():
    assert LFQ(bits=3).config == {"type": "LFQ", "bits": 3, "num_codebooks": 1, "scale": 1.0,
                                  "inv_temperature": 100.0, "entropy_groups": 1, "bit_order": "msb_first",
                                  "sign_of_zero": -1, "rotation_trick": False}


def test_config_of_a_composite_has_its_childrens_and_holds_no_module_twice():
    quantizer = Recorder(children_of_it=[LFQ(bits=3), {"inner": Recorder()}])
    first, second = quantizer.config["children_of_it"]
    assert first == LFQ(bits=3).config and second["inner"] == {"type": "Recorder", "dim": 2, "children_of_it": None}
    assert not list(quantizer.children()) and "children_of_it" not in quantizer.state_dict()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda component: pickle.loads(pickle.dumps(component))])
def test_config_and_that_of_copies_keep_what_the_component_was_built_with(copied):
    multipliers = [1, 2]
    encoder = MAGVIT2Encoder(filters=4, channel_multipliers=multipliers, temporal_downsample=[False], num_res_blocks=1)
    multipliers.append(4)
    encoder.config["channel_multipliers"].append(8)
    assert encoder.config["channel_multipliers"] == [1, 2] and copied(encoder).config == encoder.config
    assert copied(LFQ(bits=3)).config == LFQ(bits=3).config


@pytest.mark.parametrize(("args", "kwargs"), [((), dict(typo=1)), ((1,), {})])
@pytest.mark.parametrize("component", [Component, LFQ, Recorder])
def test_argument_that_no_constructor_takes_is_a_type_error(component, args, kwargs):
    with pytest.raises(TypeError):
        component(*args, **kwargs)


def test_catch_all_arguments_of_a_base_are_no_arguments():
    assert constructor_parameters(torch.nn.Module) == {} == constructor_parameters(Component)
    assert list(constructor_parameters(Recorder)) == ["dim", "children_of_it"]


def test_component_must_write_what_its_contract_asks():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Quantizer,), {"quantize": Recorder.quantize})()
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Metric,), {"compute": lambda self: {}})()


def test_component_needs_no_torch_module_and_records_positional_arguments_by_name():
    class Scale(Component):
        def __init__(self, factor: float, *, power: int = 1):
            self.factor = factor

    assert Scale(2.0).config == {"type": "Scale", "factor": 2.0, "power": 1}


def test_data_error_is_not_a_value_error():
    # A reader skips unreadable files; a wrong argument must not pass for one.
    assert not issubclass(DataError, (ValueError, OSError)) and not issubclass(ValueError, DataError)
