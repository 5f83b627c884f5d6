"""`spimm train`: a recipe, with changes, into a folder."""

from pathlib import Path
from typing import Annotated

import tyro

from spimm import train as training
from spimm.cli.console import wide_console


def train(
    recipe: Annotated[str, tyro.conf.Positional],
    changes: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    out: Path | None = None,
    data_dir: Path | None = None,
    resume: str = "auto",
    show: bool = False,
) -> int:
    """Train by a recipe, e.g. 'spimm train digits epochs=5 model_options.neuron=plif'.

    Interrupted with Ctrl-C it saves; the same command goes on from there, bit for bit as if it had not stopped.

    Args:
        recipe: name of a recipe; '--show' prints it, and an unknown name lists all.
        changes: settings to change, as key=value.
        out: folder for log, checkpoints and TensorBoard files; runs/RECIPE by default.
        data_dir: folder with the data sets; the environment variable SPIMM_DATA by default.
        resume: 'auto' goes on with a run found in 'out', 'never' refuses to, a checkpoint folder goes on from it.
        show: print the recipe with its changes and stop.
    """
    settings = training.apply_overrides(training.load_recipe(recipe), changes)
    console = wide_console()
    if show:
        console.print(training.describe_recipe(recipe), settings)
        return 0
    folder = out or Path("runs") / recipe
    result = training.train(settings, folder, resume=resume, data_dir=data_dir)
    if not result.completed:
        return 130
    best = result.best.get("ema_top1", result.best["top1"])
    console.print(f"best top-1 {best:.2f} % in epoch {result.best['epoch']:.0f}, kept in {folder}", soft_wrap=True)
    return 0
