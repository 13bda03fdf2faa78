"""Third-party archives, token sets and checkpoints write nothing outside of the output and execute nothing."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data.test_shards import npy, write_shard, write_tar
from engine.hostile import FORMATS, PAYLOADS, plain, refused, refused_by_tool
from mmengine.config import Config
from test_assets import Index
from tools.commands import files_of, run_here
from training import tiny

from toolkit import assets
from toolkit.assets import fetch
from toolkit.build import build_trainer, load_discriminator
from toolkit.data import write_image
from toolkit.data.reading.tar import media_in_tar
from toolkit.networks import PatchGANDiscriminator
from toolkit.saving import save_component
from toolkit.tokens import decode_tokens, extract_tokens, read_tokens, tokenizer_hash

pytestmark = pytest.mark.engine
HASH = "0" * 64


def special_members(tar: tarfile.TarFile, name: str, target: Path) -> None:
    """Every kind of member that is not a file, under a name that would be read."""
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.devmajor, member.devminor = kind, str(target), 1, 5
        tar.addfile(member)


@pytest.mark.parametrize("name", ["../../../../slip/a.bin", "/tmp/slip/a.bin", "..\\..\\/slip/a.bin", "C:/slip/a.bin",
                                  "toy/\n/slip/a.bin"])
def test_wheel_writes_where_the_cache_is_whatever_its_names(name, tmp_path, monkeypatch):
    index = Index(tmp_path, monkeypatch)
    index.pin(index.publish({name: b"a"}), a=("slip/a.bin", b"a"))
    assert fetch("toys/a") == index.cache / "toys/a.bin"
    assert index.left() == ["toys/a.bin"] and not list(tmp_path.rglob("slip")) and not Path("/tmp/slip").exists()


def test_link_in_a_wheel_is_its_own_text_and_links_and_devices_in_tars_are_skipped(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    with zipfile.ZipFile(tmp_path / "toy.whl", "w") as file:
        link = zipfile.ZipInfo("toy/a.bin")
        link.external_attr = 0o120777 << 16
        file.writestr(link, str(tmp_path / "secret"))
    members = [(name, stream.read()) for name, stream in assets._members(tmp_path / "toy.whl")]
    assert members == [("toy/a.bin", str(tmp_path / "secret").encode())]
    for name in ("toy/a.bin", "k.png", "k.indices.npy"):
        with tarfile.open(tmp_path / "special.tar", "w") as tar:
            special_members(tar, name, tmp_path / "secret")
        assert list(assets._members(tmp_path / "special.tar")) == []
        assert list(media_in_tar(tmp_path / "special.tar", suffixes=(".png",))) == []
        assert list(read_tokens(tmp_path / "special.tar")) == []


def test_names_in_a_tar_of_images_stay_below_the_output(make_tokenizer, tmp_path):
    write_image(tmp_path / "image.png", tiny.stripes(1, num_frames=1, height=8, width=8))
    image = (tmp_path / "image.png").read_bytes()
    names = ["../a.png", "/tmp/evil/b.png", "c/../../../d.png", "e\nf.png"]
    write_tar(tmp_path / "in.tar", dict.fromkeys(names, image))
    before = set(files_of(tmp_path))
    summary = extract_tokens(make_tokenizer(), tmp_path / "in.tar", tokenizer_hash=HASH, output=tmp_path / "out")
    assert [source for source, _ in summary.unreadable] == [f"in.tar/{name}" for name in names[:3]]
    assert {Path(name).parts[0] for name in set(files_of(tmp_path)) - before} == {"out"}
    (key, *_), = read_tokens(tmp_path / "out" / "tokens-000000.tar")
    assert key == "in%2Etar/e\nf"


@pytest.fixture
def saved(make_tokenizer, tmp_path) -> Path:
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def shard(folder: Path, key: str, saved: Path, **meta) -> Path:
    folder.mkdir(exist_ok=True)
    known = {"tokenizer": tokenizer_hash(saved), "size": [1, 8, 8], "fps": None} | meta
    return write_shard(folder / "tokens-000000.tar", {key: np.zeros((1, 2, 2, 1), int)}, **known)


OUTSIDE = ["../../evil", "/tmp/evil/x", "/", "%2E%2E", "%2E%2E%2Fevil", "%2Fetc%2Fevil", "%2e%2e/evil",
           "a/%2E%2E/%2E%2E/%2E%2E/evil", "link/evil", "a%00b"]
UNUSUAL = ["a\nb", "a%0Ab", "~", "$HOME", "-rf", "%25", "a;touch b", "\x1b[2J", "a/./b"]


@pytest.mark.parametrize("key", OUTSIDE + UNUSUAL, ids=repr)
def test_decoding_writes_below_the_output_or_not_at_all(key, saved, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    tar, before = shard(tmp_path / "tokens", key, saved), files_of(tmp_path)
    arguments = [tmp_path / "tokens", "--decode", "--tokenizer", saved, "--output", tmp_path / "out"]
    if key in OUTSIDE:
        refused_by_tool("extract_tokens", *arguments, named=tar)
        assert files_of(tmp_path) == before
    else:
        assert run_here("extract_tokens", *arguments) is None
        new, = files_of(tmp_path).keys() - before.keys()
        assert Path(new).parts[0] == "out"


@pytest.mark.parametrize("meta", [
    {"fps": float("inf")}, {"fps": float("nan")}, {"fps": 1e300}, {"fps": 10**100}, {"fps": 1e-300}, {"fps": [24]},
    {"size": [10**9] * 3}, {"size": [5, 8, 8]}, {"size": "1x8x8"}, {"size": [True, 8, 8.0]}, {"size": None},
    {"tokenizer": ["x"]}, {"tokenizer": None}], ids=str)
def test_impossible_values_in_a_token_shard_are_one_error(meta, make_tokenizer, saved, tmp_path):
    tar = shard(tmp_path / "tokens", "a", saved, **meta)
    refused(decode_tokens, make_tokenizer(), tmp_path / "tokens", tokenizer_hash=tokenizer_hash(saved),
            output=tmp_path / "out", named=tar)
    assert not (tmp_path / "out").exists()


INVALID_JSON = {
    "tokens-000000.tar": [b"[]", b"3", b"null", b"{", b"\xff", b"__import__('os').mkdir('marker')"],
    "dataset.json": [b"[]", b"{}", b'{"num_shards": "x"}', b'{"num_shards": 1.5}', b"{", b"\xff", b"[" * 10**5]}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in INVALID_JSON.items() for text in texts],
                         ids=lambda value: str(value)[:30])
def test_invalid_json_in_a_token_set_is_one_error(file, text, make_tokenizer, saved, tmp_path, marker, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoiled = shard(tmp_path / "tokens", "a", saved).parent / file
    if file == "dataset.json":
        spoiled.write_bytes(text)
    else:
        write_tar(spoiled, {"a.indices.npy": npy(np.zeros((1, 2, 2, 1), int)).getvalue(), "a.json": text})
    refused(decode_tokens, make_tokenizer(), tmp_path / "tokens", tokenizer_hash=HASH, output=tmp_path / "out",
            named=spoiled)


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory) -> Path:
    """The work dir of a run that has a checkpoint."""
    work_dir = tmp_path_factory.mktemp("run")
    build_trainer(Config(tiny.tiny_config(clips, gan=True)), work_dir=work_dir).save_checkpoint()
    return work_dir


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["state.pt", "process_0.pt", "tokenizer.safetensors", "ema.safetensors"])
@pytest.mark.parametrize("write", FORMATS)
def test_resuming_runs_nothing_of_the_checkpoint(name, write, run, clips, tmp_path, marker):
    work_dir = Path(shutil.copytree(run, tmp_path / "run"))
    trainer = build_trainer(Config(tiny.tiny_config(clips, gan=True)), work_dir=work_dir, resume=True)
    for payload in PAYLOADS.values():
        write(payload(str(marker)), work_dir / "checkpoints" / "step_0" / name)
        with pytest.raises(ValueError, match="damaged"):
            trainer.resume()
        assert not marker.exists()


def test_enormous_discriminator_is_refused_before_it_is_made(tmp_path):
    save_component(PatchGANDiscriminator(filters=8), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"filters": 10**9}, {"filters": 10**5}, {"type": "StyleGANDiscriminator"}, {"in_channels": 10**9},
                   {"num_layers": 10**9}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        refused(load_discriminator, tmp_path, named=tmp_path)


def test_entry_of_a_benchmark_runs_nothing(tmp_path, marker):
    from toolkit.evaluation.entries import build_codec

    (tmp_path / "tokenizer").mkdir()
    plain(PAYLOADS["os.system"](str(marker)), tmp_path / "tokenizer" / "model.safetensors")
    (tmp_path / "tokenizer" / "config.json").write_text("{}")
    spec = {"type": "tokenizer", "path": str(tmp_path / "tokenizer"), "bypass": False}
    refused(build_codec, spec, torch.device("cpu"), named=tmp_path / "tokenizer")
