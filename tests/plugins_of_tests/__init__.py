"""The sources of small plugin distributions, good and bad, which tests install.

A module leaves a file beside it when it runs, which tells whether it was imported.
"""

from __future__ import annotations

from pathlib import Path

from toolkit import plugins

HEAD = """
from pathlib import Path
import torch
from toolkit import LOSSES, METRICS, QUANTIZERS, AdversarialLoss, Loss, Metric, Quantizer
Path(__file__).with_suffix(".imported").touch()
"""
ROUND = '''
class {name}(Quantizer):
    """Rounds to 0 or 1."""
    codebook_size = 2
    def __init__(self, *, dim: int = 1):
        super().__init__()
        self.dim = self.num_codebooks = dim
        self.scale = torch.nn.Parameter(torch.ones(()))
    def quantize(self, z):
        codes = (z * self.scale).clamp(0, 1).round()
        return z + (codes - z).detach(), codes.long(), {{}}
    def lookup(self, indices):
        return indices.float()
'''
# module -> what it does besides HEAD
MODULES = {
    "round_quantizers": ROUND.format(name="Round") + ROUND.format(name="Plain") + """
QUANTIZERS.register_module()(Round)          # a decorator, and under another name than the entry point's
LOSSES.register_module(name="Helper")(type("Helper", (Loss,), {"forward": lambda self, output, target: 0}))
""",
    "bad_import": """
LOSSES.register_module(name="Trace")(type("Trace", (Loss,), {"forward": lambda self, output, target: 0}))
QUANTIZERS.register_module(name="Alias")(QUANTIZERS.get("VQ"))
import no_such_module_anywhere
""",
    "bad_exit": "raise SystemExit(3)",
    "bad_classes": "class Nothing(Loss):\n    pass\ndef rounded(z):\n    return z\nfrom toolkit.quantizers import VQ\n"
                 "class Half(Quantizer):\n    def quantize(self, z):\n        pass\n"
                 "class Nowhere:\n    __module__ = None\n"
                 "class Raises(Half):\n    def lookup(self, i):\n        pass\n"
                 "    def __init__(self):\n        raise RuntimeError('out of\\nluck')",
    "bad_text": "class Mute(Exception):\n    def __str__(self):\n        raise ValueError\nraise Mute",
    "bad_taker": "@QUANTIZERS.register_module()\nclass VQ(Quantizer):\n    pass",
    "old_quantizers": ROUND.format(name="Old"),
    "first_quantizers": ROUND.format(name="Twice"),
    "second_quantizers": ROUND.format(name="Twice") + """
class WassersteinLoss(AdversarialLoss):
    def generator(self, fake_logits):
        return -fake_logits.mean()
    def discriminator(self, real_logits, fake_logits):
        return (fake_logits - real_logits).mean()
""",
    "duplicate_quantizers": ROUND.format(name="LFQ") + """
class Frames(Metric):
    higher_is_better = {"frames": True}
    def update(self, *, target, reconstruction, indices):
        pass
    def compute(self):
        return {"frames": 1.0}
    def reset(self):
        pass
""",
}
# distribution -> version, requirements, modules, group -> name -> target
DISTRIBUTIONS = {
    "Toolkit_Good": ("0.3.1", ["visual-tokenizer-toolkit[test]>=0.0.1.dev0,<99",
                               "visual-tokenizer-toolkit<0.0.1; python_version<'3'",
                               "visual-tokenizer-toolkit<0.0.1; extra=='old'"],
                     ["round_quantizers"], {"quantizers": {"GoodRound": "round_quantizers:Round",
                                                            "Plain": "round_quantizers:Plain"}}),
    "toolkit-bad": ("1.0", [], ["bad_import", "bad_exit", "bad_classes", "bad_taker", "bad_text"], {"quantizers": {
        "BadImport": "bad_import:Round", "BadExit": "bad_exit:Round", "BadAttribute": "bad_classes:Missing",
        "BadLoss": "bad_classes:Nothing", "BadFunction": "bad_classes:rounded", "BadAlias": "bad_classes:VQ",
        "BadModule": "bad_classes", "BadTaker": "bad_taker:VQ", "BadText": "bad_text:Round",
        "BadHalf": "bad_classes:Half", "BadNowhere": "bad_classes:Nowhere", "Raises": "bad_classes:Raises"}}),
    "toolkit-old": ("2.0", ["Visual.Tokenizer_Toolkit<0.0.9"], ["old_quantizers"],
                    {"quantizers": {"Old": "old_quantizers:Old"}}),
    "toolkit-first": ("1.1", [], ["first_quantizers"], {"quantizers": {"Twice": "first_quantizers:Twice"}}),
    "toolkit-second": ("1.2", [], ["second_quantizers"], {
        "quantizers": {"Twice": "second_quantizers:Twice"},
        "losses": {"WassersteinLoss": "second_quantizers:WassersteinLoss"}}),
    "toolkit-duplicate": ("6.6", [], ["duplicate_quantizers"], {
        "quantizers": {"LFQ": "duplicate_quantizers:LFQ"}, "metrics": {"Frames": "duplicate_quantizers:Frames"}}),
}
BAD = {name for name in DISTRIBUTIONS["toolkit-bad"][3]["quantizers"] if name.startswith("Bad")}


def write_distribution(folder: Path, name: str) -> Path:
    version, requires, modules, groups = DISTRIBUTIONS[name]
    folder.mkdir(parents=True)
    for module in modules:
        (folder / f"{module}.py").write_text(HEAD + MODULES[module])
    lines = ['[build-system]', 'requires = ["setuptools"]', 'build-backend = "setuptools.build_meta"', '[project]',
             f'name = "{name}"', f'version = "{version}"', f'description = "[{name}] in a line"',
             f'dependencies = {requires[:2]}']
    if requires[2:]:
        lines += ['[project.optional-dependencies]', f'old = ["{requires[2].split(";")[0]}"]']
    for group, entries in groups.items():
        lines += [f'[project.entry-points."toolkit.{group}"]', *(f'{key} = "{to}"' for key, to in entries.items())]
    lines += ['[tool.setuptools]', f'py-modules = {modules}']
    (folder / "pyproject.toml").write_text("\n".join(lines) + "\n")
    return folder


def imported(site: Path) -> set[str]:
    """The modules of plugins that have run."""
    return {path.stem for path in site.glob("*.imported")}


def plugin_names(group: str = "toolkit.quantizers") -> set[str]:
    return {entry.name for entry in plugins.plugin_entries(group)}
