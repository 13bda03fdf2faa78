"""The presets of the code bases, and the table of their differences."""

import math
import re
import shlex
from pathlib import Path

import pytest
import torch

from toolkit import build_tokenizer, load_config
from toolkit.build import build_component, build_objective, read_settings
from toolkit.config import parse_overrides
from toolkit.contracts import DataError
from toolkit.registry import DATASETS, QUANTIZERS
from toolkit.tokenizer import Tokenizer
from toolkit.training.initialization import initialize

CONFIGS = Path(__file__).parent.parent / "configs"
PRESETS = {"o2": "o2_magvit2_video.py", "praxis": "praxis_video.py", "open_magvit2": "open_magvit2_video.py"}


def tokenizer_of(path: str | Path) -> Tokenizer:
    """The tokenizer of a config in configs/, without weights."""
    with torch.device("meta"):
        return build_tokenizer(load_config(CONFIGS / path).tokenizer)


def preset(name: str) -> dict:
    """Every argument of a preset's components, defaults included."""
    path = f"_base_/networks/{PRESETS[name]}"
    tokenizer = tokenizer_of(path)
    components = {**tokenizer.decoder.config, **tokenizer.encoder.config, **tokenizer.quantizer.config}
    return {**load_config(CONFIGS / path).discriminator, **components}


def table() -> dict[str, dict[str, str]]:
    """argument -> column -> cell of the table in configs/README.md."""
    lines = [line for line in (CONFIGS / "README.md").read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header = next(row for row in rows if row[0] == "detail")
    return {row[1].strip("`"): dict(zip(header, row, strict=True)) for row in rows
            if len(row) == len(header) and row[1].startswith("`")}


@pytest.mark.parametrize("path", sorted((CONFIGS / "_base_" / "networks").glob("*.py")), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_network_builds(path):
    tokenizer = tokenizer_of(path)
    assert tokenizer.stride[1] == tokenizer.stride[2] >= 8


@pytest.mark.parametrize("argument", ["padding", "downsample_kernel", "first_conv_bias", "norm_scope", "norm_eps",
                                      "adaptive_norm", "kept_frame", "bit_order", "sign_of_zero", "blur_padding"])
@pytest.mark.parametrize("name", PRESETS)
def test_table_states_the_presets_value(argument, name):
    column = next(column for column in table()[argument] if column.startswith(f"{name} "))
    stated = re.split(r"[:( ]", table()[argument][column])[0]
    value = preset(name).get(argument, "reflect" if name == "o2" else "none")  # discriminator defaults are not stated
    assert stated == str(value) or (argument == "norm_eps" and float(stated) == value)


def test_table_has_every_option_in_which_presets_differ():
    presets = {name: preset(name) for name in PRESETS}
    arguments = set.intersection(*(set(values) for values in presets.values()))
    same_figure = {"channel_multipliers", "temporal_downsample", "type"}  # of sizes, not of fidelity
    differing = {argument for argument in arguments - same_figure
                 if len({str(values[argument]) for values in presets.values()}) > 1}
    assert differing <= set(table())


@pytest.mark.parametrize(("path", "causal"), [("praxis_video.py", True), ("open_magvit2_video.py", False),
                                              ("open_magvit2_image.py", True), ("o2_magvit2_video.py", True)])
def test_only_clip_wide_norms_are_not_causal(path, causal):
    tokenizer = tokenizer_of(f"_base_/networks/{path}")
    assert tokenizer.encoder.causal == tokenizer.decoder.causal == causal


@pytest.mark.parametrize("name", ["fsq", "vq", "bsq", "ibq", "rlfq"])
@pytest.mark.parametrize("kin", ["magvit2_video", "demo_video"])
def test_variant_changes_only_the_quantizer(kin, name):
    ours, original = (load_config(CONFIGS / f"{stem}.py").to_dict() for stem in (f"{kin}_{name}", kin))
    assert ours["tokenizer"].pop("quantizer") != original["tokenizer"].pop("quantizer")
    assert ours == original


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_video_*q.py")), ids=lambda path: path.stem)
def test_variant_spends_the_bits_its_docstring_says(path):
    tokenizer = tokenizer_of(path)
    bits = tokenizer.num_codebooks * math.log2(tokenizer.codebook_size)
    assert bits == (12 if path.stem in ("demo_video_vq", "demo_video_ibq") else 18)


PUBLISHED = {"paper_stage1_image": (256, 8_000_000 * 10), "paper_stage2_video": (128, 9_300_000)}  # batch, samples


@pytest.mark.parametrize("name", PUBLISHED)
def test_paper_scale_commands_give_the_published_batch_and_samples(name):
    text, (batch, samples) = (CONFIGS / f"{name}.py").read_text().replace("\\\\\n", ""), PUBLISHED[name]
    commands = re.findall(r"^ +accelerate launch (.*)$", text, re.MULTILINE)
    assert [re.search(r"--num_processes (\d+)", command)[1] for command in commands] == ["8", "32"]
    for command in commands:
        words = shlex.split(command)
        options = [word for word in words[words.index("--cfg-options") + 1:] if not word.endswith("...")]
        config = load_config(CONFIGS / f"{name}.py", parse_overrides(options))
        processes = int(words[words.index("--num_processes") + 1])
        settings, each = read_settings(config), config.data.train.batch_size
        micro = settings.with_micro_batches([each], num_processes=processes).gradient_accumulation_steps
        assert each * micro * processes == batch and settings.max_steps == samples // batch


@pytest.mark.parametrize(("name", "kind"), [*zip(PUBLISHED, ["ImageShards", "VideoShards"], strict=True)])
def test_paper_scale_data_may_be_shards(name, kind):
    shards = {"data.train.dataset.type": kind, "data.train.dataset.path": "no/such"}
    config = load_config(CONFIGS / f"{name}.py", shards)
    with pytest.raises(DataError, match="no/such"):  # and not an error of the arguments
        build_component(DATASETS, config.data.train.dataset)


def test_paper_scale_stages_fit_together():
    source, target = (tokenizer_of(f"{name}.py") for name in PUBLISHED)
    initialize(target, source)  # raises an error if tensors do not fit
    assert load_config(CONFIGS / "paper_stage2_video.py").training.init_from == "work_dirs/paper_stage1_image/tokenizer"


PAPER_WEIGHTS = {  # arXiv:2310.05737 with O2-MAGVIT2's weights; 2406.07548; 2412.02692; 1711.00937
    "LFQ": dict(commitment=0.25, per_sample_entropy=0.1, codebook_entropy=-0.1),
    "BSQ": dict(commitment=0.25, per_sample_entropy=0.1, codebook_entropy=-0.1),
    "Residual": dict(commitment=0.25, per_sample_entropy=0.1, codebook_entropy=-0.1),
    "IBQ": dict(quantization=1.0, commitment=1.0, codebook=0.25, per_sample_entropy=0.05, codebook_entropy=-0.05),
    "FSQ": {}, "Grouped": {}, "VQ": dict(commitment=0.25)}  # Grouped: of FSQ
DEMO = dict(commitment=0.25, per_sample_entropy=[(500, 0.02), (1500, 0.05)],
            codebook_entropy=[(500, -0.02), (1500, -0.05)])
JOINT = dict(commitment=0.25, per_sample_entropy=0.03, codebook_entropy=-0.03)
MAGVIT2 = dict(commitment=0.25, per_sample_entropy=[(0, 0.3), (2000, 0.1)], codebook_entropy=[(0, -0.3), (2000, -0.1)])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_a_config_trains_with_its_own_quantizers_weights(path):
    config = load_config(path)
    section = config.get("tokenizer", dict(quantizer=dict(type="LFQ", bits=18)))["quantizer"]
    with torch.device("meta"):
        quantizer = build_component(QUANTIZERS, section)
    objective = build_objective(dict(quantizer=config.objective.get("quantizer")), quantizer=quantizer)
    named = section["type"] == "LFQ" and not path.stem.startswith("finetune")
    ours = {"demo_joint": JOINT}.get(path.stem, DEMO if path.stem.startswith(("demo", "leaderboard")) else MAGVIT2)
    assert objective.quantizer_weights == (ours if named else PAPER_WEIGHTS[section["type"]])


@pytest.mark.parametrize("option", ["objective.quantizer.commitment", "objective.quantizer.IBQ.commitment"])
def test_an_override_changes_one_weight_of_the_configs_own_quantizer(option):
    config = load_config(CONFIGS / "magvit2_video_ibq.py", {option: 0.7})
    quantizer = build_component(QUANTIZERS, dict(config.tokenizer.quantizer, codebook_size=8))
    objective = build_objective(dict(quantizer=config.objective.quantizer), quantizer=quantizer)
    assert objective.quantizer_weights == PAPER_WEIGHTS["IBQ"] | dict(commitment=0.7)
