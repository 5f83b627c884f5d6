"""Prints the tables of energy.md: `python docs/energy_table.py`. Less than a minute."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

import spimm
from spimm.analyze import Trace, energy, implied_rate, purity, record
from spimm.deploy import fold

PUBLISHED = {
    "metaspikeformer_15m": (4.0, 16.7),
    "metaspikeformer_31m": (7.8, 32.8),
    "metaspikeformer_55m": (13.0, 52.4),
}
"""mJ on ImageNet at T = 1 and T = 4. Yao et al. 2024, table 2."""
SPIKEATCONV = {
    "spikeatconv_tiny_table": 3.8,
    "spikeatconv_base_table": 14.2,
    "spikeatconv_base_text": 14.2,
    "spikeatconv_large_table": 32.0,
    "spikeatconv_large_text": 32.0,
}
"""mJ on ImageNet at T = 1. Liao et al. 2025, table 4."""
SHORTCUTS = ("membrane", "spike_add", "vanilla")


@torch.no_grad()
def traced(model: nn.Module, x: Tensor) -> Trace:
    """What the model does with x."""
    with record(model) as recorder:
        model(x)
    return recorder.trace()


def spiking_gflop(trace: Trace, formula: str = "metaspikeformer") -> float:
    """Dense operations per step behind the first neuron that are within the formula's total, in 1e9."""
    lines = energy(trace, formula, count_integers=False).counted
    return sum(line.dense for line in lines if line.group != "input") / 1e9


def energy_row(name: str) -> str:
    """A size of the paper: its operations, and the mean rates that its energies stand for."""
    single, four = PUBLISHED[name]
    model = spimm.create_model(name, num_steps=4).eval()
    merged = fold(model, merge="dense")
    image = torch.rand(1, 3, 224, 224)
    split_trace, merged_trace = (traced(network, image.unsqueeze(1)) for network in (model, merged))
    four_trace = traced(merged, image)
    first = merged_trace.layers[0].dense / 1e9
    once, each = (
        implied_rate(four_trace, four, "metaspikeformer", first_layer_steps=steps) for steps in ("once", "each")
    )
    cells = [
        f"`{name}`",
        f"{first:.4f}",
        f"{4.6 * first:.3f}",
        f"{spiking_gflop(merged_trace):.2f}",
        f"{spiking_gflop(split_trace):.2f}",
        f"{implied_rate(merged_trace, single, 'metaspikeformer'):.3f}",
        f"{once:.3f} / {each:.3f}",
        f"{implied_rate(split_trace, single, 'metaspikeformer'):.2f}",
    ]
    return row(cells)


def spikeatconv_row(name: str) -> str:
    """A size: its operations, the mean rate that its printed energy stands for, softmax attention beside it."""
    millijoules = SPIKEATCONV[name]
    trace = traced(spimm.create_model(name).eval(), torch.rand(1, 3, 224, 224))
    report = energy(trace, "spikeatconv", count_integers=False, rates=1.0)
    attention = sum(line.dense for line in report.lines if line.beside) / 1e9
    cells = [
        f"`{name}`",
        f"{millijoules}",
        f"{trace.layers[0].dense / 1e9:.4f}",
        f"{spiking_gflop(trace, 'spikeatconv'):.2f}",
        f"{implied_rate(trace, millijoules, 'spikeatconv'):.2f}",
        f"{attention:.3f}",
        f"{report.beside_millijoules:.2f}",
    ]
    return row(cells)


def lively(shortcut: str) -> nn.Module:
    """An untrained network whose norms are set so that its neurons fire."""
    torch.manual_seed(0)
    model = spimm.create_model("metaspikeformer_cifar", shortcut=shortcut, num_steps=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 2.0)
            nn.init.constant_(module.bias, 0.5)
            module.momentum = 1.0
    with torch.no_grad():
        for _ in range(2):  # the borders of RepConv follow the running statistics, one call behind
            model.train()(torch.rand(8, 3, 32, 32))
    return model.eval()


def purity_rows(shortcut: str) -> Iterable[str]:
    """What the matrix products of a network with this shortcut receive, split and merged."""
    model, images = lively(shortcut), torch.rand(8, 3, 32, 32)
    for form, network in (("split", model), ("merged", fold(model, merge="dense"))):
        found = purity(traced(network, images))
        shares = found.shares()
        counts = [f"{count} ({shares[kind]:.1%})" if count else "0" for kind, count in found.products().items()]
        yield row([f"`{shortcut}`", form, *counts])


def row(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for name in PUBLISHED:
        print(energy_row(name))
    for name in SPIKEATCONV:
        print(spikeatconv_row(name))
    for shortcut in SHORTCUTS:
        print(*purity_rows(shortcut), sep="\n")
