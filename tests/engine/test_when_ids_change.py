"""What may change token ids and what may not, measured here and in the committed matrix."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic_clip
import torch

from toolkit import build_tokenizer, load_tokenizer

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "tokens"  # trained: latents of a random network lie near zero
MATRIX = ROOT / "benchmarks" / "results" / "ids.json"
QUANTIZERS = {"LFQ": dict(type="LFQ", bits=8), "FSQ": dict(type="FSQ", levels=[8, 5, 4]),
              "VQ": dict(type="VQ", codebook_size=64, dim=6)}
CHUNKS = [(1,), (4,), (5,), (16,), (1, 7, 2), (3, 1, 1)]


@pytest.fixture(scope="module")
def scripts():
    """The modules of benchmarks/ids.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import id_ways
        import ids

        yield id_ways, ids


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Quantizer -> a tokenizer's directory; the golden weights, and with them FSQ's and VQ's random last layers."""
    directories, golden = {"LFQ": GOLDEN}, load_tokenizer(GOLDEN)
    for name in ("FSQ", "VQ"):
        torch.manual_seed(0)
        components = {component: {key: value for key, value in config.items()
                                  if key not in ("in_channels", "out_channels")}
                      for component, config in golden.config.items() if component != "quantizer"}
        tokenizer = build_tokenizer(components | {"quantizer": QUANTIZERS[name]})
        state = tokenizer.state_dict()
        state |= {key: value for key, value in golden.state_dict().items()
                  if key in state and state[key].shape == value.shape and key.startswith("encoder")}
        tokenizer.load_state_dict(state)
        tokenizer.encoder.conv_out.weight.data *= 3  # over several levels
        directories[name] = tmp_path_factory.mktemp("tokenizers") / name
        tokenizer.save_pretrained(directories[name])
    return directories


def clips(count=5, num_frames=17):
    frames = [synthetic_clip.frames(number, num_frames=num_frames, height=24, width=32) for number in range(count)]
    return torch.cat([synthetic_clip.pixels_of(clip) for clip in frames])


def margins(name, tokenizer, latents):
    """(N, t, h, w): how far each position is from the border to another id, in the latents' measure or below."""
    z = latents.double().movedim(1, -1).numpy()
    if name == "LFQ":
        return np.abs(z).min(-1)
    if name == "FSQ":
        sizes = np.array(QUANTIZERS["FSQ"]["levels"])
        reach, offset = (sizes - 1) * 1.001 / 2, (sizes % 2 == 0) / 2
        bounded = np.tanh(z + np.arctanh(offset / reach)) * reach - offset
        return np.abs(bounded - np.floor(bounded) - 0.5).min(-1) / reach.max()
    codebook = next(tokenizer.quantizer.parameters()).detach().double().numpy()
    nearest = np.sort(((z[..., None, :] - codebook) ** 2).sum(-1), axis=-1)
    # moving z by e changes the difference of two squared distances by 2 e |c - c'| at most
    spread = np.linalg.norm(codebook[:, None] - codebook, axis=-1).max()
    return (nearest[..., 1] - nearest[..., 0]) / (2 * spread)


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize(("way", "sizes"), [
    ("in_batches", 2), ("in_batches", 5), *(("in_chunks", lengths) for lengths in CHUNKS)], ids=str)
def test_the_rest_of_a_batch_and_where_a_stream_is_cut_change_ids_only_at_borders(
        scripts, directories, tmp_path, name, way, sizes):
    pixels = clips(5 if way == "in_batches" else 2)
    if way == "in_batches":
        pixels[3] = pixels[3].sign()  # extreme pixels next to the others
    actual = getattr(scripts[0], way)(scripts[0].Case(directories[name], pixels, tmp_path), sizes)
    tokenizer = load_tokenizer(directories[name])
    with torch.no_grad():
        output = [tokenizer(clip) for clip in pixels.split(1)]
    plain = torch.cat([one.indices for one in output])
    decided = margins(name, tokenizer, torch.cat([one.latents for one in output])) > 1e-5
    assert decided.mean() > 0.99 and len(plain.unique()) > 5
    assert torch.equal(actual.indices[torch.from_numpy(decided)], plain[torch.from_numpy(decided)])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_saving_and_loading_changes_nothing(scripts, directories, tmp_path, name):
    case = scripts[0].Case(directories[name], clips(2), tmp_path)
    actual, expected = scripts[0].saved_and_loaded(case), scripts[0].plain(case)
    assert torch.equal(actual.indices, expected.indices) and actual.psnr == expected.psnr
    one, other = (load_tokenizer(path).state_dict() for path in (directories[name], tmp_path / "saved"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_two_processes_give_the_ids_and_the_score_of_one(scripts, tmp_path):
    case = scripts[0].Case(GOLDEN, clips(), tmp_path)  # an odd number: the shares differ
    actual, expected = scripts[0].in_two_processes(case), scripts[0].plain(case)
    assert torch.equal(actual.indices, expected.indices) and actual.psnr == pytest.approx(expected.psnr, rel=1e-9)


def test_a_training_that_is_resumed_gives_the_ids_of_one_that_is_not(scripts, tmp_path):
    case = scripts[0].Case(GOLDEN, clips(2), tmp_path)
    before, expected, actual = (run(case) for run in (
        scripts[0].plain, scripts[0].trained_in_one_go, scripts[0].trained_and_resumed))
    assert torch.equal(actual.indices, expected.indices) and actual.psnr == expected.psnr
    assert not torch.equal(expected.indices, before.indices)  # it did learn
    assert [path.name for path in sorted((tmp_path / "resumed" / "checkpoints").iterdir())] == ["step_4", "step_8"]


def test_half_precision_does_change_ids_so_that_the_other_tests_would_notice(scripts, tmp_path):
    case = scripts[0].Case(GOLDEN, clips(2), tmp_path)
    actual, expected = scripts[0].WAYS["bf16 autocast"].run(case), scripts[0].plain(case)
    assert 0 < scripts[1].shares(actual.indices, expected.indices, (2,) * 8)["ids"] < 0.2


@pytest.mark.parametrize("sizes", [(2,) * 8, (3, 4, 5), (60,)], ids=str)
def test_shares_count_ids_and_their_digits(scripts, sizes):
    one, other = np.random.default_rng(0).integers(0, np.prod(sizes), (2, 50, 1))
    digits = np.stack(np.unravel_index(one, sizes)) != np.stack(np.unravel_index(other, sizes))
    expected = {"ids": (one != other).mean()} | ({"digits": digits.mean()} if len(sizes) > 1 else {})
    assert scripts[1].shares(torch.tensor(one), torch.tensor(other), sizes) == pytest.approx(expected)


# The committed matrix

EXACT = ("batch of 1, once more", "saved and loaded", "training resumed", "2 processes")
ROUNDED = ("batch of 2", "batch of 8", "chunks of 1", "chunks of 4", "chunks of 5", "chunks of 16", "chunks of 1, 7, 2",
           "2 threads", "float64", "torch.compile")
HALF = ("bf16 autocast", "fp16 autocast")


@pytest.fixture(scope="module")
def matrix():
    return json.loads(MATRIX.read_text())


def test_the_matrix_has_a_row_of_every_way_for_every_family_and_the_table_too(scripts, matrix):
    assert MATRIX.with_suffix(".md").read_text() == scripts[1].markdown(matrix)
    assert set(scripts[0].WAYS) == {*EXACT, *ROUNDED, *HALF}
    assert {one["quantizer"]["type"] for one in matrix["tokenizers"].values()} == {"LFQ", "FSQ", "VQ"}
    for one in matrix["tokenizers"].values():
        assert one["rows"].keys() == scripts[0].WAYS.keys()
        assert one["num_ids"] > 5_000
        for way, row in one["rows"].items():
            keys = {"ids", "psnr"} | ({"digits"} if len(one["digits"]) > 1 else set())
            assert row.keys() == keys or (way in HALF and row == {"not measured": "needs a GPU"})
    made = matrix["provenance"]
    assert made["device"].startswith("CPU") and made["threads"] == 1
    assert {"torch", "toolkit", "python", "preparation", "clips"} <= made.keys()


def test_in_the_matrix_float32_changes_at_most_latents_near_borders_and_half_precision_more(matrix):
    for title, one in matrix["tokenizers"].items():
        for way in EXACT:
            assert one["rows"][way]["ids"] == 0 and abs(one["rows"][way]["psnr"]) < 1e-9, (title, way)
        worst = max(one["rows"][way]["ids"] for way in ROUNDED)
        assert worst < 1e-3 and all(abs(one["rows"][way]["psnr"]) < 1e-3 for way in ROUNDED), title
        assert one["rows"]["bf16 autocast"]["ids"] > 10 * worst, title


def test_the_command_measures_the_golden_tokenizers_cheap_rows_again(matrix, tmp_path):
    expected = matrix["tokenizers"]["small LFQ"]
    cheap = ["batch of 8", "chunks of 5"]
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "ids.py"), "--tokenizer", str(GOLDEN), "--ways",
                           *cheap, "--output", str(tmp_path / "ids.json")], capture_output=True, text=True, check=False,
                          timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    actual, = json.loads((tmp_path / "ids.json").read_text())["tokenizers"].values()
    assert list(actual["rows"]) == cheap and done.stdout == (tmp_path / "ids.md").read_text() + "\n"
    for key in ("hash", "num_ids", "quantizer", "digits"):
        assert actual[key] == expected[key]
    assert actual["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)
    for way in cheap:
        assert abs(actual["rows"][way]["ids"] - expected["rows"][way]["ids"]) < 1e-4
        assert abs(actual["rows"][way]["psnr"]) < 1e-3


def test_an_unknown_way_is_one_clear_error(scripts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ids.py", "--ways", "on a GPU"])
    with pytest.raises(SystemExit) as ended:
        scripts[1].main()
    assert ended.value.code == 2 and "no such way: on a GPU; there are batch of 1" in capsys.readouterr().err
