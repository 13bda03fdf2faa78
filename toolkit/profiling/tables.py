"""Tables of a run for rich: its cost before the start, its scores at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table

from toolkit.profiling.cost import DTYPES, matrix_rate
from toolkit.profiling.dry_run import RunCost, SourceCost
from toolkit.training.validation import markdown_table, score_rows

# Share of the matrix products' rate that training reaches: on a CPU measured by benchmarks/speed.py gemm_share, on a
# GPU an assumption.
SHARE_OF_RATE = {"cpu": 1.0, "cuda": 0.35}


def write_results(results: Mapping[str, Mapping[str, Mapping[str, float]]], work_dir: Path) -> Group:
    """Write modality -> codec -> scores as results.json and results.md; returns them as tables."""
    (work_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    pages, tables = [], []
    for modality, codecs in results.items():
        header, rows = score_rows(codecs)
        tables.append(Table(*header, title=f"{modality}, validation set"))
        for row in rows:
            tables[-1].add_row(*row)
        pages.append(markdown_table([modality, *header[1:]], rows))
    (work_dir / "results.md").write_text("\n\n".join(pages) + "\n")
    return Group(*tables)


def cost_tables(cost: RunCost) -> Group:
    """The result of ``run_cost`` as tables, with the time on this device."""
    return Group(_networks_table(cost), *map(_step_table, cost.sources), _run_table(cost))


def _table(title: str, *header: str, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    return table


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.3f}"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.4g}"


def _networks_table(cost: RunCost) -> Table:
    table = _table("networks, and GiB that they hold", "", "parameters", "of which learn", "weights", "gradients",
                   "optimizer", "EMA")
    for network in cost.networks:
        table.add_row(network.name, f"{network.parameters:,}", f"{network.trained:,}", *map(
            _gib, (network.weights, network.gradients, network.optimizer, network.average)))
    return table


def _step_table(source: SourceCost) -> Table:
    samples, *shape = source.shape
    table = _table(f"{source.modality}: a micro-batch of {samples} x {tuple(shape)}, {source.share:.0%} of the steps",
                   "", "TFLOP", "GiB kept", "GiB at most",
                   caption="TFLOP: of convolutions and matrix products, a multiply-add being two. GiB: of all tensors "
                           "in use but those above; kept: when it ends, for the backward pass among others.")
    for phase in source.phases:
        name = phase.name if phase.share == 1 else f"{phase.name} ({phase.share:.0%} of the steps)"
        table.add_row(name, _tera(phase.flops), _gib(phase.kept), _gib(phase.peak))
    table.add_row("mean per micro-batch, and most", _tera(source.flops), "", _gib(source.peak), style="bold")
    return table


def _run_table(cost: RunCost) -> Table:
    settings, dtype = cost.settings, DTYPES[cost.settings.mixed_precision]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate, share = matrix_rate(device, dtype), SHARE_OF_RATE[device.type]
    seconds = cost.flops_per_step / (rate * share)
    hours = seconds * settings.max_steps / 3600
    note = (f"Time: at {share:.0%} of the {device.type}'s rate in large matrix products, measured now; narrow "
            "networks, reading data and validation take longer. Memory: of tensors; libraries need more")
    if dtype != torch.float32:
        note += ", and mixed precision on a GPU keeps some activations in float32 that are counted in 16 bits here"
    table = _table("the run, per process", "", "", caption=f"{note}.")
    micro = settings.gradient_accumulation_steps
    for name, value in (
            ("samples per optimizer step", f"{cost.samples_per_step:.4g}, in {micro} micro-batch{'es' * (micro > 1)}"),
            ("TFLOP per sample, forward pass", _tera(cost.forward_flops_per_sample)),
            ("TFLOP per sample, training", _tera(cost.flops_per_sample)),
            ("TFLOP per optimizer step", _tera(cost.flops_per_step)),
            ("GiB", f"{_gib(cost.held)} held + {_gib(cost.memory - cost.held)} in a step = {_gib(cost.memory)}"),
            (f"TFLOP per second, {str(dtype).removeprefix('torch.')}", _tera(rate)),
            ("seconds per optimizer step", f"{seconds:,.4g}"),
            (f"PFLOP of {settings.max_steps:,} steps, all processes", f"{cost.total_flops / 1e15:.4g}"),
            (f"time for {settings.max_steps:,} steps", f"{hours:,.1f} hours, {hours / 24:,.1f} days")):
        table.add_row(name, value)
    return table
