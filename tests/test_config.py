"""Reading configs: closed keys, inheritance, overrides, and every shipped file."""

import ast
import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import DictAction

import toolkit
from toolkit.build import build_discriminators, build_sources, build_tokenizer
from toolkit.config import TOP_LEVEL, ConfigError, load_config, parse_overrides

CONFIGS = Path(toolkit.__file__).parent.parent / "configs"
RUNNABLE = sorted(CONFIGS.glob("*.py"))

BASE = """
tokenizer = dict(quantizer=dict(type="LFQ", bits=18), encoder=dict(type="MAGVIT2Encoder", filters=8))
training = dict(max_steps=10, betas=[0.0, 0.99])
seed = 0
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "config.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_top_level_keys_are_the_seven_sections():
    assert set(TOP_LEVEL) == {"tokenizer", "discriminator", "objective", "data", "training", "metrics", "seed"}


@pytest.mark.parametrize(("text", "named"), [
    ("sead = 1", "'sead' (did you mean 'seed'?)"), ("tokeniser = dict(a=1)", "'tokeniser' (did you mean 'tokenizer'?)"),
    ("metric = 1", "'metric' (did you mean 'metrics'?)"), ("trainer = 1", "'trainer' (did you mean 'training'?)"),
    ("Data = 1", "'Data' (did you mean 'data'?)"), ("qqq = 1\nsead = 2", "'qqq', 'sead' (did you mean 'seed'?)")])
def test_all_unknown_top_level_keys_are_refused_with_the_nearest(write, text, named):
    with pytest.raises(ConfigError, match=re.escape(f"has no key {named}; it takes tokenizer, ")):
        load_config(write(text))
    assert issubclass(ConfigError, ValueError)


def test_child_inherits_changes_and_adds_and_delete_replaces_a_component_and_its_arguments(write):
    write(BASE, "_base_/base.py")
    config = load_config(write("_base_ = '_base_/base.py'\n"
                               "tokenizer = dict(quantizer=dict(bits=12))\ntraining = dict(warmup_steps=5)"))
    assert config.tokenizer.quantizer == dict(type="LFQ", bits=12)
    assert config.tokenizer.encoder.filters == 8
    assert config.training == dict(max_steps=10, betas=[0.0, 0.99], warmup_steps=5)
    assert config.seed == 0
    config = load_config(write("_base_ = '_base_/base.py'\n"
                               "tokenizer = dict(quantizer=dict(_delete_=True, type='FSQ', levels=[8, 5]))"))
    assert config.tokenizer.quantizer == dict(type="FSQ", levels=[8, 5])


@pytest.mark.parametrize(("name", "text"), [
    ("config.yaml", "tokenizer:\n  quantizer: {type: LFQ, bits: 12}\nseed: 3\n"),
    ("config.yml", "tokenizer:\n  quantizer: {type: LFQ, bits: 12}\nseed: 3\n"),
    ("config.json", '{"tokenizer": {"quantizer": {"type": "LFQ", "bits": 12}}, "seed": 3}')])
def test_yaml_and_json_take_the_same_keys(write, name, text):
    config = load_config(write(text, name))
    assert config.tokenizer.quantizer == dict(type="LFQ", bits=12) and config.seed == 3
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        load_config(write(text.replace("seed", "sead"), name))


def test_yaml_inherits_from_python(write):
    write(BASE, "base.py")
    config = load_config(write("_base_: base.py\ntraining: {max_steps: 3}\n", "config.yaml"))
    assert config.training.max_steps == 3 and config.tokenizer.quantizer.bits == 18


def test_overrides_are_set_last_at_any_depth_and_not_changed(write):
    overrides = {"tokenizer.quantizer.bits": 3, "training.new.deep": [1], "seed": None, "objective.losses": dict(a=1)}
    before = copy.deepcopy(overrides)
    config = load_config(write(BASE), overrides)
    assert config.tokenizer.quantizer == dict(type="LFQ", bits=3)
    assert config.training.new.deep == [1] and config.training.max_steps == 10
    assert config.seed is None and config.objective.losses.a == 1
    assert overrides == before


def test_override_of_an_unknown_section_is_refused(write):
    with pytest.raises(ConfigError, match="--cfg-options has no key 'trainig'"):
        load_config(write(BASE), {"trainig.max_steps": 1})


def test_missing_file_is_named_with_its_neighbours(write):
    path = write(BASE, "magvit2_video.py")
    with pytest.raises(ConfigError, match=r"magvit2_vido\.py does not exist; did you mean magvit2_video\.py"):
        load_config(path.with_name("magvit2_vido.py"))
    for missing in (path.parent / "no" / "such.py", path.parent):
        with pytest.raises(ConfigError, match="does not exist"):
            load_config(missing)


@pytest.mark.parametrize(("word", "value"), [
    ("a=1", 1), ("a=1e-4", 1e-4), ("a=True", True), ("a=true", True), ("a=false", False), ("a=None", None),
    ("a=text", "text"), ("a='1'", "1"), ("a=[(0, 0.3), (9, 1)]", [(0, 0.3), (9, 1)]), ("a=x=y", "x=y"), ("a=", ""),
    ("a=[tensorboard, wandb]", ["tensorboard", "wandb"]), ("a=[1,none]", [1, None]), ("a=['x', 'y']", ["x", "y"]),
    ("a=/data/my clips", "/data/my clips"), ("a=__import__('os').getcwd()", "__import__('os').getcwd()")])
def test_command_line_values_are_literals_or_else_text(word, value):
    assert parse_overrides([word]) == {"a": value}


@pytest.mark.parametrize("text", [
    "1,2,3", "a,b", "a,", "[a,b]", "[a, b, c]", "(a,b)", "(1)", "[(a,b),(c,d)]", "[(1, 2, 3), [a, b], c]", "x,(1,2)",
    "[1,2.5,x]", "[[1,2],[3,4]]", "[]", "()", "[ ]", "[(),[]]", "[a,]", "[a,,b]", "[1e-4,true,False,None]", "'[a,b]'",
    '"(1,2)"', "'[1,[2,x]]'", "[tr/1.mp4,tr/2.mp4]", "-1", "+1", ".5", "1e-4", "inf", "1_000", "FALSE", "it's",
    "[0-9]*.mp4", ""])
def test_lists_on_the_command_line_are_those_of_mmengine(text):
    mmengine = DictAction._parse_iterable(text)
    assert repr(parse_overrides([f"a={text}"])["a"]) == repr(mmengine)


@pytest.mark.parametrize(("text", "value"), [
    ("007", "007"), ("[007,0.5,0]", ["007", 0.5, 0]), ("'a,b'", "a,b"),
    ("['a, b',c]", ["a, b", "c"]), ('["it\'s", \'1\']', ["it's", "1"]), ("/my clips,b c", ["/my clips", "b c"]),
    ("{a,b}.mp4", "{a,b}.mp4"), ("x-{000..127}.tar,y.tar", ["x-{000..127}.tar", "y.tar"]), ("null", None),
    ("[0-9][0-9]", "[0-9][0-9]"), ("clip (1", "clip (1"), ("{'a': [1, 2], 'b': 'x,]y'}", {"a": [1, 2], "b": "x,]y"}),
    ("[{'type': 'PSNR'}, {'type': 'SSIM'}]", [{"type": "PSNR"}, {"type": "SSIM"}]), ("'tis", "'tis"),
    ("{[a]}", "{[a]}")])
def test_values_that_mmengine_would_change_stay_as_they_are_typed(text, value):
    assert parse_overrides([f"a={text}"]) == {"a": value}


@pytest.mark.parametrize("word", ["a=[", "a=[b", "a=b,c]", "a=(b]", "a=[b,(c]", "a=['b, c]", "a=b,'c", "a={'b': 1",
                                  r"a='\x'"])
def test_brackets_and_quotes_that_do_not_match_are_refused_with_the_word(word):
    with pytest.raises(ConfigError, match=re.escape(f"matching brackets and quotes, got {word!r} (")):
        parse_overrides([word])


def test_numbers_stay_text_where_the_setting_is_a_path_or_text(write):
    path = write(BASE + "data = dict(train=[dict(dataset=dict(root='/data', files=['a', 'b'], size=8))])")
    config = load_config(path, {"seed": 1}, options=[
        "data.val.dataset.path=2024", "data.train.0.dataset.path=[2023,2024.10]", "data.train.0.dataset.root=1e5",
        "data.train.0.dataset.files=1,2", "data.train.0.dataset.size=16", "tokenizer.encoder.type=7", "seed=3",
        "data.val.dataset.index_dir=2025"])
    assert (config.data.val.dataset.path, config.data.val.dataset.index_dir) == ("2024", "2025")
    assert config.data.train[0].dataset == dict(path=["2023", "2024.10"], root="1e5", files=["1", "2"], size=16)
    assert config.tokenizer.encoder.type == "7"
    assert config.seed == 1  # overrides come after the words


@pytest.mark.parametrize("path", [2024, True, ["a.mp4", 2024]])
def test_a_data_path_that_is_no_text_is_refused_with_its_key(path):
    with pytest.raises(ConfigError, match=r"data\.train\.dataset\.path is text.*, got (.*); quote it: path='\1'"):
        build_sources("data.train", dict(dataset=dict(type="VideoClips", path=path), batch_size=1))


def test_settings_of_the_guide_work_on_the_command_line():
    shown = re.findall(r"`((?:data|objective|tokenizer|training)\.[^`=]+=[^`]+)`", (CONFIGS / "README.md").read_text())
    words = [word for words in shown for word in re.split(r" (?=[a-z]+\.)", words)]
    assert "training.gradient_clipping.tokenizer=1.0" in words and "training.checkpoints.keep=3" in words
    values = parse_overrides(words)
    assert not [key for key, value in values.items() if isinstance(value, str) and re.search(r"[(\[]", value)]


@pytest.mark.parametrize("word", ["training.max_steps", "", "=3"])
def test_command_line_word_without_key_or_value_is_refused(word):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_overrides([word])


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_shipped_config_builds_its_networks_and_states_its_command(path):
    assert f"python tools/train.py configs/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))
    config = load_config(path)
    assert ("tokenizer" in config) != path.stem.startswith("finetune")  # which train an existing tokenizer
    with torch.device("meta"):
        tokenizer = build_tokenizer(config.get("tokenizer", load_config(CONFIGS / "magvit2_video.py").tokenizer))
        modalities = ["image", "video"] if isinstance(config.data.train, list) else ["any"]
        built = build_discriminators(config.get("discriminator"), modalities).values()
        sizes = {network.size for network in built if network.size}
    assert tokenizer.codebook_size > 0
    sources = config.data.train if isinstance(config.data.train, list) else [config.data.train]
    for dataset in (source.dataset for source in sources):
        clip = (dataset.get("num_frames", 1), dataset.size, dataset.size)
        assert tokenizer.fitting_size(clip) == clip
        assert not sizes or clip in sizes


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_shipped_configs_have_two_levels_only_and_load_alone(path):
    names = [node.targets[0].id for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    assert ("_base_" in names) <= (path.parent == CONFIGS)
    assert set(load_config(path)) <= set(TOP_LEVEL)


def test_importing_the_package_loads_no_torch_and_takes_no_time():
    code = ("import sys, time; start = time.perf_counter(); import toolkit; toolkit.__version__; dir(toolkit); "
            "print(time.perf_counter() - start, 'torch' in sys.modules, 'mmengine' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch_loaded, mmengine_loaded = done.stdout.split()
    assert float(seconds) < 0.5 and (torch_loaded, mmengine_loaded) == ("False", "False")


def test_public_names_are_listed_and_others_are_not_there():
    assert set(toolkit.__all__) == set(dir(toolkit))
    with pytest.raises(AttributeError, match="module 'toolkit' has no attribute 'load_confg'"):
        _ = toolkit.load_confg
