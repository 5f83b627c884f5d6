"""Draws the figures of events.md into docs/figures:

`python docs/events_figures.py [--only FIGURE ...]`
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spimm.analyze import save_plot
from spimm.data import simulate_events
from spimm.data.digits_dvs import digit_recordings
from spimm.data.frames import Framing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "figures"
OFF, ON = "tab:blue", "tab:red"


def simulator() -> "Figure":
    """A pixel's level between frames, the reference that follows it, and its events."""
    from matplotlib.figure import Figure

    threshold, times = 0.25, np.arange(9) * 10_000
    level = np.array([-2.0, -1.75, -1.0, -0.55, -0.75, -1.6, -2.2, -2.2, -1.9])
    frames = np.exp(level)[:, None, None] - 1e-3
    recording = simulate_events(frames, times, threshold=threshold)
    reference = level[0] + threshold * np.cumsum([0, *(2 * recording.p.astype(int) - 1)])
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.step([0, *(recording.t / 1000), times[-1] / 1000], [*reference, reference[-1]], where="post", color="0.6")
    axes.plot(times / 1000, level, "k-", marker="s", markersize=4)
    for p, colour, name in ((1, ON, "on"), (0, OFF, "off")):
        chosen = recording.p == p
        axes.plot(recording.t[chosen] / 1000, reference[1:][chosen], "o", color=colour, markersize=5, label=name)
    axes.set(xlabel="ms", ylabel="log luminance")
    axes.legend(title="events", frameon=False)
    return figure


def digits() -> "Figure":
    """The recording of one digit in eight frames of each kind."""
    recording = digit_recordings()[3]
    framings = {
        "counts": Framing(8),
        "equally many": Framing(8, bins="count"),
        "voxel grid": Framing(8, representation="voxel"),
        "time surface": Framing(8, representation="surface"),
    }
    return rows({name: framing(recording) for name, framing in framings.items()})


def rows(sequences: dict[str, np.ndarray]) -> "Figure":
    """Frames uint8 [H, W, T, 2], a row for each name: on red, off blue, both black."""
    from matplotlib.figure import Figure

    count = next(iter(sequences.values())).shape[2]
    figure = Figure(figsize=(count * 0.95, len(sequences) * 1.05), layout="constrained")
    grid = figure.subplots(len(sequences), count, squeeze=False)
    for line, (name, frames) in zip(grid, sequences.items(), strict=True):
        shade = frames / max(np.quantile(frames[frames > 0], 0.95), 1)
        off, on = np.clip(np.moveaxis(shade, (3, 2), (0, 1)), 0, 1)  # [T, H, W] each
        colours = np.stack([1 - off, 1 - np.maximum(off, on), 1 - on], axis=-1)
        for step, axes in enumerate(line):
            axes.imshow(colours[step], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.replace(" ", "\n", 1), fontsize=8)
    return figure


FIGURES: dict[str, Callable[[], "Figure"]] = {
    "events_simulator": simulator,
    "events_digits": digits,
}
COLOURS = 64
"""Of a file: fewer make it smaller."""


def write(name: str) -> Path:
    """Draws one of FIGURES and writes it."""
    return save_plot(FIGURES[name](), FOLDER / f"{name}.png", dpi=110, colours=COLOURS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    for name in parser.parse_args().only:
        path = write(name)
        print(f"{path.relative_to(FOLDER.parent)}: {path.stat().st_size / 1000:.0f} kB")
