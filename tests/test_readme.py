"""What the README shows is what the project does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from toolkit.registry import QUANTIZERS
from toolkit.training.validation import markdown_table, score_rows

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_quantizer_of_the_readme_keeps_the_contract():
    block, = (code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "register_module" in code)
    exec(compile(block, "README.md", "exec"), {})
    quantizer = QUANTIZERS.build(dict(type="Rounding", dim=5))
    latents = torch.tensor([-1.0, 2.0, 0.5, -0.1, 3.0]).view(1, 5, 1, 1, 1).requires_grad_()
    output = quantizer(latents)
    assert output.indices.item() == 0b01101
    assert torch.equal(quantizer.codes_from_indices(output.indices), output.codes)
    assert output.losses["commitment"].item() == torch.tensor([1.0, 1.0, 0.25, 0.01, 4.0]).mean().item()
    output.codes.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))
    del QUANTIZERS.module_dict["Rounding"]


def test_table_of_the_readme_is_that_of_the_committed_results():
    results = json.loads((ROOT / "benchmarks/results/demo_video.json").read_text())
    header, rows = score_rows(results["video"])
    assert markdown_table(["", *header[1:]], rows) in README


def test_files_that_the_readme_names_exist():
    named = set(re.findall(r"(?<![\w/])(?:configs|tools|benchmarks|tests|toolkit|\.github)/[\w./]+\.\w+", README))
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]
    assert "@@" not in README  # nothing is left to fill in
