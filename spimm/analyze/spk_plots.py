"""Pictures of what the parts of SpikeAtConv do: SPK blocks on one value, their branches over time, groups of tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spimm.analyze.plots import INK, new_figure, tidy
from spimm.layers import GroupAttention
from spimm.layers.spk import sum_branches
from spimm.neurons import MultiLIF

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP_COLOURS = ("#88ccee", "#cc6677", "#332288", "#999933")
"""One for each number of steps; light and dark in turn, and apart for colour-blind eyes."""
STEP_WIDTHS = (5.0, 2.8, 1.2, 0.8)
"""Points; later curves are thinner, so that equal ones stay visible."""
POTENTIAL, THRESHOLD, CURRENT = "#0072b2", "#d55e00", "#8c8c8c"
FRAME = ("#000000", 2.6), ("#00e5ff", 1.2)
"""Of a token: colour and points, the outer one first."""
DIM = 0.3
"""How much of a picture's contrast, in grey, is left where no attention goes."""


@torch.no_grad()
def response(block: nn.Module, inputs: Tensor, num_steps: int) -> Tensor:
    """Mean output of an SPK block over `num_steps` from rest on constant inputs [N], [N, 2]: of two equal channels.

    Two channels differ where a block treats halves of them differently (HSL). Concatenated branches are summed.
    """
    x = inputs.view(1, -1, 1, 1, 1).expand(1, -1, 2, 1, 1)
    y = block(x, num_steps)
    branches = y.shape[2] // x.shape[2]
    return (sum_branches(y, branches) if branches > 1 else y).mean((0, 3, 4))


def plot_responses(blocks: Mapping[str, nn.Module], inputs: Tensor, *, steps: Sequence[int] = (1, 2, 4)) -> "Figure":
    """Mean output against constant input [N], a panel for each block by its title and a curve for each number of steps.

    A block whose halves differ has a panel for each half. Raises ValueError for more curves than there are colours.
    """
    if not 1 <= len(steps) <= len(STEP_COLOURS):
        raise ValueError(f"steps are {tuple(steps)}; wanted 1 to {len(STEP_COLOURS)} numbers of steps")
    panels: list[tuple[str, list[Tensor]]] = []
    for title, block in blocks.items():
        curves = [response(block, inputs, count) for count in steps]
        if all(torch.equal(*curve.unbind(1)) for curve in curves):
            panels.append((title, [curve[:, 0] for curve in curves]))
        else:
            panels += [(f"{title}, half {i + 1}", [curve[:, i] for curve in curves]) for i in range(2)]
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    rows = -(-len(panels) // columns)
    figure = new_figure(3.1 * columns, 1.75 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, (title, curves) in zip(grid.flat, panels, strict=False):
        for count, curve, colour, width in zip(steps, curves, STEP_COLOURS, STEP_WIDTHS, strict=False):
            axes.plot(
                inputs.numpy(),
                curve.numpy(),
                color=colour,
                linewidth=width,
                label=f"T = {count}",
                solid_joinstyle="miter",
            )
        axes.set_title(title, loc="left", fontsize=9.5, color=INK)
        top = max(1.0, *(float(curve.max()) for curve in curves))
        axes.set_ylim(-0.06 * top, 1.06 * top)
        axes.locator_params("y", nbins=5, steps=(1, 2, 2.5, 5, 10))
        axes.locator_params("x", nbins=8)
        axes.margins(x=0)
        tidy(axes)
    for i in range(len(panels), grid.size):
        grid.flat[i].set_visible(False)
        grid.flat[i - columns].tick_params(labelbottom=True)
    figure.supxlabel("constant input", fontsize=9.5)
    figure.supylabel("mean output over T steps", fontsize=9.5)
    handles = grid.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=len(steps), frameon=False, fontsize=9.5)
    return figure


class _Run(NamedTuple):
    """A MultiLIF on one input over time: of each step and branch, [T, n]."""

    spikes: np.ndarray
    """Whether it fires."""
    charged: np.ndarray
    """Potentials in front of the reset."""
    reset: np.ndarray
    """And behind it."""


@torch.no_grad()
def _run(block: MultiLIF, currents: Tensor) -> _Run:
    decay, gain = map(float, block.neuron.charge())
    rest = block.neuron.dynamics().rest
    x = currents.view(-1, 1, 1, 1, 1)
    charged, reset = [], [torch.full((len(block.thresholds), 1, 1, 1, 1), rest)]
    for step in x:
        charged.append(rest + decay * (reset[-1] - rest) + gain * step)
        reset.append(block.step(step, reset[-1])[1])
    parts = torch.cat(block.branches(x), 2).bool(), torch.stack(charged), torch.stack(reset[1:])
    return _Run(*(part.flatten(1).numpy() for part in parts))


def plot_branches(block: MultiLIF, currents: Mapping[str, Tensor], *, branch: int = 0) -> "Figure":
    """Input [T], potential of one branch and spikes of all, over time; a column for each input by its title.

    Raises ValueError for a branch that the block does not have.
    """
    if not 0 <= branch < len(block.thresholds):
        raise ValueError(f"branch is {branch}; the block has {len(block.thresholds)}, from 0")
    figure = new_figure(4.6 * len(currents), 5.4)
    heights = (1, 1.2, 0.28 * len(block.thresholds) + 0.2, 0.8)
    grid = figure.subplots(4, len(currents), squeeze=False, sharex="col", sharey="row", height_ratios=heights)
    for (title, x), column in zip(currents.items(), grid.T, strict=True):
        _draw_branches(column, block, x, branch)
        column[0].set_title(title, loc="left", fontsize=9.5, color=INK)
    threshold = block.thresholds[branch]
    labels = ("input", f"potential, θ = {threshold:g}", "branch", "spikes\nin sum")
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label, fontsize=9)
    figure.align_ylabels(grid[:, 0])
    return figure


def _draw_branches(column: Sequence["Axes"], block: MultiLIF, x: Tensor, branch: int) -> None:
    run = _run(block, x)
    time, thresholds, fired = np.arange(1, len(x) + 1), block.thresholds, run.spikes
    currents, potential, raster, total = column
    currents.bar(time, x.numpy(), width=0.85, color=CURRENT, zorder=2)
    currents.locator_params("y", nbins=4, integer=True)
    path = np.stack((run.charged[:, branch], run.reset[:, branch]), 1).ravel()
    potential.plot(np.repeat(time, 2), path, color=POTENTIAL, linewidth=1.3, zorder=2)
    potential.axhline(thresholds[branch], color=THRESHOLD, linewidth=1, linestyle="--", zorder=1)
    tops = run.charged[fired[:, branch], branch]
    potential.plot(time[fired[:, branch]], tops, "o", color=POTENTIAL, markersize=4, zorder=3)
    for row, spikes in enumerate(fired.T):
        colour = POTENTIAL if row == branch else INK
        raster.vlines(time[spikes], row - 0.36, row + 0.36, color=colour, linewidth=2.2, zorder=2)
    raster.set_yticks(range(len(thresholds)), [f"θ = {threshold:g}" for threshold in thresholds])
    raster.set_ylim(-0.6, len(thresholds) - 0.4)
    total.bar(time, run.spikes.sum(1), width=0.85, color=INK, zorder=2)
    total.set_ylim(0, len(thresholds) + 0.2)
    total.set_yticks(range(0, len(thresholds) + 1, 2))
    total.set_xlabel("time step", fontsize=9)
    total.set_xlim(0.3, len(x) + 0.7)
    for axes in column:
        tidy(axes)


def attended(core: GroupAttention, height: int, width: int, token: tuple[int, int]) -> Tensor:
    """The tokens of a map that attend to the one at (row, column), itself included: [height, width], boolean."""
    groups = core.groups(height, width)
    return groups == groups[token]


def plot_attended(
    image: np.ndarray,
    cores: Mapping[str, GroupAttention],
    *,
    reductions: Sequence[int] = (4, 8, 16, 32),
    at: tuple[float, float] = (0.5, 0.5),
) -> "Figure":
    """What one token attends to, bright on the dimmed image; a row for each attention by its title, a column a stage.

    image: [H, W, 3], 0..255, or 0..1 if floating; a stage has a token for each `reduction` x `reduction` pixels. at:
    where the token is, which a frame shows, as parts of the height and the width. Raises ValueError for an image of
    another shape and where it is no multiple of a reduction.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the image has shape {image.shape}; wanted [height, width, 3]")
    height, width = image.shape[:2]
    if any(side % reduction for side in (height, width) for reduction in reductions):
        raise ValueError(f"the image is {height} x {width} pixels; wanted multiples of {tuple(reductions)}")
    colours = image / 255 if np.issubdtype(image.dtype, np.integer) else image
    figure = new_figure(1.55 * len(reductions) + 0.25, (1.55 * height / width + 0.13) * len(cores) + 0.25)
    grid = figure.subplots(len(cores), len(reductions), squeeze=False)
    first = next(iter(cores.values()))
    for (title, core), row in zip(cores.items(), grid, strict=True):
        row[0].set_ylabel(title, fontsize=9.5, color=INK)
        for reduction, axes in zip(reductions, row, strict=True):
            rows, columns = height // reduction, width // reduction
            if core is first:
                axes.set_title(f"{rows} x {columns} tokens", fontsize=9.5, color=INK)
            token = (min(int(at[0] * rows), rows - 1), min(int(at[1] * columns), columns - 1))
            mask = attended(core, rows, columns, token)
            _draw_attended(axes, colours, mask, token, reduction)
            axes.set_xlabel(f"attends to {int(mask.sum())}", fontsize=8.5, labelpad=3)
    return figure


def _draw_attended(axes: "Axes", colours: np.ndarray, mask: Tensor, token: tuple[int, int], reduction: int) -> None:
    from matplotlib.patches import Rectangle

    bright = mask.numpy().repeat(reduction, 0).repeat(reduction, 1)[:, :, None]
    grey = 1 - DIM * (1 - colours.mean(2, keepdims=True))
    axes.imshow(np.where(bright, colours, grey), interpolation="nearest")
    top, left = (place * reduction - 1.5 for place in token)
    for colour, points in FRAME:
        frame = Rectangle((left, top), reduction + 2, reduction + 2, fill=False, edgecolor=colour, linewidth=points)
        axes.add_patch(frame)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
