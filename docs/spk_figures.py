"""Draws the figures of spikeatconv.md into docs/figures: `python docs/spk_figures.py`. A few seconds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from spimm.analyze import plot_attended, plot_branches, plot_responses, save_plot
from spimm.layers import ATTENTION_GAIN, FORMS, THRESHOLDS, GroupAttention, create_spk
from spimm.neurons import LIF, MultiLIF

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "figures"
MBPL = THRESHOLDS["mbpl"]
BRANCHES = ((1.0, 2.0), (1.0, 2.0, 4.0), MBPL, (0.2, *map(float, range(1, 8))))
"""Of the paper's Tables 1 and 2."""


def block(kind: str, *, gain: float = 1.0, decay_input: bool = True, **options: object) -> nn.Module:
    """An SPK block of LIFs with tau 2 for two channels, which fires on `gain` times its input."""

    def neuron_fn(*, threshold: float = 1.0) -> LIF:
        return LIF(threshold=threshold / gain, decay_input=decay_input)

    if kind == "mbpl" and gain != 1:
        options["thresholds"] = [threshold / gain for threshold in MBPL]
    return create_spk(kind, 2, neuron_fn=neuron_fn, **options)  # type: ignore[arg-type]


def responses() -> "Figure":
    """Staircases of all blocks that work on one value."""
    blocks = {"SL": block("sl"), "SL, decay_input=False": block("sl", decay_input=False)}
    blocks |= {f"RL, {form}": block("rl", form=form) for form in reversed(FORMS["rl"])}
    blocks["HSL"] = block("hsl")
    blocks |= {f"MBPL, {len(thresholds)} branches": block("mbpl", thresholds=thresholds) for thresholds in BRANCHES}
    blocks |= {"ReLU": block("relu"), "GELU": block("gelu")}
    return plot_responses(blocks, torch.linspace(-1, 15, 1601))


def behind_attention() -> "Figure":
    """Staircases on what attention gives, means of spikes, with and without the gain."""
    blocks = {
        f"{kind.upper()}, gain {gain:g}": block(kind, gain=gain)
        for kind in ("sl", "mbpl")
        for gain in (1.0, ATTENTION_GAIN)
    }
    return plot_responses(blocks, torch.linspace(0, 1, 1001))


def branches() -> "Figure":
    """The four branches of MBPL over time."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(24.0)
    noise = 0.5 * torch.randn(2, len(time), generator=generator)
    currents = {
        "rising input with noise": 6 * time / time[-1] + noise[0],
        "sinusoidal input with noise": 2.5 - 2.5 * torch.cos(2 * math.pi * time / 12) + noise[1],
    }
    return plot_branches(MultiLIF(LIF(), MBPL), currents, branch=2)


def attention() -> "Figure":
    """What one token of a photograph attends to at the four stages of a network on 224 x 224 pixels."""
    picture = Image.fromarray(load_sample_image("flower.jpg"))
    side = min(picture.size)
    left = (picture.width - side) // 2
    image = np.asarray(picture.crop((left, 0, left + side, side)).resize((224, 224), Image.Resampling.LANCZOS))
    cores = {name: GroupAttention(2, 7, nn.Identity(), partition=name) for name in ("grid", "window", "full")}
    return plot_attended(image, cores, at=(0.43, 0.68))  # type: ignore[arg-type]


FIGURES: dict[str, Callable[[], "Figure"]] = {
    "spk_responses": responses,
    "spk_behind_attention": behind_attention,
    "spk_branches": branches,
    "grid_attention": attention,
}
COLOURS = 96
"""Of a file: fewer make it smaller."""


def write(name: str) -> Path:
    """Draws one of FIGURES and writes it."""
    return save_plot(FIGURES[name](), FOLDER / f"{name}.png", dpi=150, colours=COLOURS)


if __name__ == "__main__":
    for name in FIGURES:
        path = write(name)
        print(f"{path.relative_to(FOLDER.parent)}: {path.stat().st_size / 1000:.0f} kB")
