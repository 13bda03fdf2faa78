"""Predicted cost of a step, against formulas and real steps."""

import shutil

import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from training import tiny
from training.tiny import tiny_config, write_images

from toolkit import build_tokenizer
from toolkit.build import build_run
from toolkit.config import ConfigError
from toolkit.layers import CausalConv3d
from toolkit.profiling.cost import Meter, Phase, fake_copies
from toolkit.profiling.dry_run import RunCost, run_cost

clips, as_in_a_new_process = tiny.clips, tiny.as_in_a_new_process


def cost_of(config: dict) -> RunCost:
    return run_cost(build_run(Config(config), num_processes=1, weights=False))


def figures(cost: RunCost) -> tuple[list, list]:
    return [vars(network) for network in cost.networks], [vars(source) for source in cost.sources]


def phases_of(config: dict) -> dict[str, Phase]:
    source, = cost_of(config).sources
    return {phase.name: phase for phase in source.phases}


def tiny_images(folder) -> dict:
    """A run on batches of two 16x16 images, with the tiny network without its temporal kernels."""
    flat = dict(temporal_kernel=1, temporal_downsample=(False,))
    config = tiny_config(folder, tokenizer__encoder=flat, tokenizer__decoder=flat)
    for split in ("train", "val"):
        config["data"][split]["dataset"] = dict(type="Images", path=str(folder), size=16)
    return config


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images")


def test_flops_of_an_image_network_are_the_sums_over_its_layers(images):
    def conv(in_channels: int, out_channels: int, kernel: int, side: int) -> int:
        return 2 * 2 * side**2 * in_channels * out_channels * kernel**2  # two images, a multiply-add as two

    first = conv(3, 8, 3, 16)
    encoder = [first, 2 * conv(8, 8, 3, 16), conv(8, 8, 3, 8),  # first level, and the stride to 8x8
               conv(8, 16, 3, 8), conv(16, 16, 3, 8), conv(8, 16, 1, 8),  # second level: it is wider
               2 * conv(16, 16, 3, 8), conv(16, 6, 1, 8)]  # middle, and to 6 bits
    decoder = [conv(6, 16, 3, 8), 2 * conv(16, 16, 3, 8),
               2 * conv(6, 16, 1, 8), 2 * conv(16, 16, 3, 8), conv(16, 64, 3, 8),  # norm by codes, block, 2x2 larger
               2 * conv(6, 16, 1, 16), conv(16, 8, 3, 16), conv(8, 8, 3, 16), conv(16, 8, 1, 16), conv(8, 3, 3, 16)]
    entropy = 2 * (2 * 8**2) * 2**3 * 2**3  # codes' probabilities from those of two halves of three bits
    forward = sum(encoder) + sum(decoder) + entropy
    phases = phases_of(tiny_images(images))
    assert phases["tokenizer, forward"].flops == forward
    assert phases["tokenizer, backward"].flops == 2 * forward - first  # the pixels need no gradient


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_flops_of_a_causal_convolution_count_all_taps_and_one_on_an_image(frames):
    conv, clip = CausalConv3d(2, 4, kernel_size=(3, 3, 3)), torch.ones(1, 2, frames, 6, 6, requires_grad=True)
    with Meter() as meter:
        with meter.phase("forward"):
            output = conv(clip)
        with meter.phase("backward"):
            output.sum().backward()
    taps = 3 * frames if frames > 1 else 1
    flops = 2 * taps * 2 * 4 * 9 * 36
    assert [phase.flops for phase in meter.phases] == [flops, 2 * flops]


def test_memory_counts_each_storage_once_until_it_is_freed():
    with Meter() as meter:
        with meter.phase("a view adds nothing"):
            numbers = torch.ones(250)
            view = numbers[10:]
        with meter.phase("one is made, one is freed"):
            del numbers
            other = view * 2
            del view
    first, second = meter.phases
    assert (first.kept, first.peak) == (1000, 1000)
    assert (second.kept, second.peak) == (960, 1960)
    assert len(other) == 240


@pytest.mark.parametrize("checkpointing", [False, True, 1])
def test_kept_memory_equals_what_a_real_forward_pass_saves_and_returns(clips, checkpointing):
    config = tiny_config(clips, training__activation_checkpointing=checkpointing)
    tokenizer = build_tokenizer(config["tokenizer"]).train()
    tokenizer.encoder.activation_checkpointing = tokenizer.decoder.activation_checkpointing = checkpointing
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*tokenizer.parameters(), *tokenizer.buffers())}
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor
    pixels = torch.rand(2, 3, 5, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = tokenizer(pixels)
    returned = [pixels, output.reconstruction, output.latents, output.codes, output.indices, *output.losses.values()]
    storages = {storage.data_ptr(): storage.nbytes() for storage in map(Tensor.untyped_storage, [*saved, *returned])
                if storage.data_ptr() not in weights}
    assert phases_of(config)["tokenizer, forward"].kept == pytest.approx(sum(storages.values()), rel=0.01)


def test_checkpointing_takes_less_memory_and_computes_blocks_again_up_to_the_last_saved_input(clips):
    def product(in_channels: int, out_channels: int, positions: int, taps: int = 27) -> int:
        return 2 * 2 * positions * in_channels * out_channels * taps  # two clips, a multiply-add as two

    fine, coarse = 5 * 16 * 16, 3 * 8 * 8
    # The first convolution of a block; where the width changes its second too, as the shortcut comes after it.
    recomputed = [product(8, 8, fine), product(8, 16, coarse) + product(16, 16, coarse), product(16, 16, coarse),
                  product(16, 16, coarse), product(16, 16, coarse), product(16, 8, fine) + product(8, 8, fine),
                  2 * product(6, 16, coarse, taps=1), 2 * product(6, 16, fine, taps=1)]  # norms by 6 bits
    plain, again = (phases_of(tiny_config(clips, training__activation_checkpointing=on)) for on in (False, True))
    forward, backward = plain["tokenizer, forward"], plain["tokenizer, backward"]
    assert again["tokenizer, forward"].kept < 0.7 * forward.kept
    more = again["tokenizer, backward and the forward pass again"].flops - backward.flops
    assert more == sum(recomputed) < forward.flops


def test_parameters_and_the_bytes_held_for_them(clips):
    config = tiny_config(clips, gan=True, training__trainable=["decoder"])
    networks = {network.name: network for network in cost_of(config).networks}
    tokenizer = build_tokenizer(config["tokenizer"])
    for name in ("encoder", "decoder"):
        count = sum(tensor.numel() for tensor in getattr(tokenizer, name).state_dict().values())
        assert networks[name].parameters == count and networks[name].average == networks[name].weights == 4 * count
    assert networks["encoder"].gradients == networks["encoder"].optimizer == 0
    assert networks["decoder"].gradients == 4 * networks["decoder"].parameters
    assert networks["decoder"].optimizer == 8 * networks["decoder"].parameters
    discriminator = networks["discriminator (video)"]
    linear = (16 * 3 * 8 * 8 + 1) * 16 + 17  # of 16 channels on half of 5 x 16 x 16, then to one logit
    convolutions = (3 * 8 + 8 * 8 + 8 * 16 + 16 * 16) * 27 + 8 + 8 + 16 + 16 + 8 * 16
    assert discriminator.parameters == linear + convolutions and discriminator.average == 0


def test_r1_costs_its_share_of_the_steps(clips):
    config = tiny_config(clips, gan=True)
    config["objective"]["adversarial"]["r1"] = dict(weight=0.5, every=20)
    source, = cost_of(config).sources
    *others, without, with_r1 = source.phases
    assert (without.share, with_r1.share) == (0.95, 0.05) and with_r1.flops > 1.5 * without.flops
    assert source.flops == pytest.approx(sum(p.flops for p in others) + 0.95 * without.flops + 0.05 * with_r1.flops)


def test_a_mixture_costs_the_weighted_mean_and_accumulation_the_multiple(clips, images):
    config = tiny_config(clips, training__gradient_accumulation_steps=3)
    pictures = dict(dataset=dict(type="Images", path=str(images), size=16), batch_size=5, weight=3.0)
    config["data"]["train"] = [config["data"]["train"], pictures]
    cost = cost_of(config)
    video, image = cost.sources
    assert (video.shape, image.shape) == ((2, 3, 5, 16, 16), (5, 3, 1, 16, 16))
    assert (video.share, image.share) == (0.25, 0.75)
    assert cost.flops_per_step == pytest.approx(3 * (0.25 * video.flops + 0.75 * image.flops))
    assert cost.samples_per_step == 3 * (0.25 * 2 + 0.75 * 5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_takes_less_memory_for_the_same_arithmetic(clips, precision):
    full, half = (cost_of(tiny_config(clips, training__mixed_precision=mode)) for mode in ("no", precision))
    assert half.flops_per_sample == full.flops_per_sample
    assert half.sources[0].phases[0].kept < 0.7 * full.sources[0].phases[0].kept


def test_flops_of_a_codebook_of_averages_count_its_distances(clips):
    def phases(codebook_size: int) -> dict[str, Phase]:
        quantizer = dict(_delete_=True, type="VQ", codebook_size=codebook_size, dim=6, update="ema", kmeans_iters=2,
                         revive_below=0.1)
        return phases_of(tiny_config(clips, tokenizer__quantizer=quantizer))

    small, large = phases(64), phases(1064)
    positions = 2 * 3 * 8 * 8
    assert large["tokenizer, forward"].flops - small["tokenizer, forward"].flops == 2 * 1000 * 6 * positions


def test_a_step_that_depends_on_numbers_is_refused(clips):
    quantizer = dict(_delete_=True, type="Residual", quantizers=[dict(type="LFQ", bits=3)] * 2, quantize_dropout=0.5)
    with pytest.raises(ConfigError, match="cost does not depend on tensor values, got"):
        cost_of(tiny_config(clips, tokenizer__quantizer=quantizer))


def test_a_perceptual_network_has_no_trained_parameters(clips):
    perceptual = dict(loss=dict(type="LPIPS", net="alex"), weight=0.1)
    config = tiny_config(clips, objective__losses__perceptual=perceptual, data__train__dataset__size=32)
    network = next(n for n in cost_of(config).networks if n.name == "objective (perceptual)")
    convolutions = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)]  # AlexNet's, and a
    count = sum((i * k * k + 1) * o + o for i, o, k in convolutions)  # weight for each of their channels
    assert (network.parameters, network.trained, network.gradients) == (count, 0, 0)


def test_init_from_replaces_the_tokenizer_section_and_is_not_read_with_one(clips, tmp_path):
    config = tiny_config(clips)
    build_tokenizer(config["tokenizer"]).save_pretrained(tmp_path)
    initialized = {**config, "training": {**config["training"], "init_from": str(tmp_path)}}
    without_tokenizer = {key: value for key, value in initialized.items() if key != "tokenizer"}
    expected = figures(cost_of(config))
    assert figures(cost_of(without_tokenizer)) == expected
    shutil.rmtree(tmp_path)
    assert figures(cost_of(initialized)) == expected
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        cost_of(without_tokenizer)
    with pytest.raises(ConfigError, match=r"tokenizer, or training.init_from=DIR"):
        cost_of({**without_tokenizer, "training": config["training"]})


def test_a_parameter_shared_by_two_modules_is_copied_once_and_stays_as_it_is():
    layer = nn.Linear(3, 3, bias=False)
    twins = nn.ModuleList([layer, nn.Linear(3, 3, bias=False)])
    twins[1].weight = layer.weight
    with FakeTensorMode():
        copies, = fake_copies([twins])
    assert copies[0].weight is copies[1].weight and isinstance(copies[0].weight, FakeTensor)
    assert twins[0].weight is twins[1].weight is layer.weight and type(layer.weight.data) is Tensor
