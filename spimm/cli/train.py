"""`spimm train`: a recipe, with changes, into a folder."""

import os
from pathlib import Path
from typing import Annotated

import tyro

from spimm import train as training
from spimm.cli.console import wide_console
from spimm.cli.plan import print_plan


def train(
    recipe: Annotated[str, tyro.conf.Positional],
    changes: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    out: Path | None = None,
    data_dir: Path | None = None,
    download: bool = False,
    resume: str = "auto",
    show: bool = False,
    dry_run: bool = False,
    processes: int | None = None,
    probe: int | None = None,
) -> int:
    """Train by a recipe, e.g. 'spimm train digits epochs=5 model_options.neuron=plif'.

    Interrupted with Ctrl-C it saves; the same command goes on from there, bit for bit as if it had not stopped.
    'torchrun --nproc-per-node 2 -m spimm train ...' trains with two processes, which share each batch.

    Args:
        recipe: name of a recipe; '--show' prints it, and an unknown name lists all.
        changes: settings to change, as key=value.
        out: folder for log, checkpoints and TensorBoard files; runs/RECIPE by default.
        data_dir: folder with the data sets; the environment variable SPIMM_DATA by default.
        download: let torchvision fetch a data set that is missing from the data folder.
        resume: 'auto' goes on with a run found in 'out', 'never' refuses to, a checkpoint folder goes on from it.
        show: print the recipe with its changes and stop.
        dry_run: build everything, measure a few steps, print what the run will take and stop; nothing is written.
        processes: with --dry-run, processes as fast as this one that share each batch; by default those of torchrun.
        probe: with --dry-run, images of the measured step, by default few on a CPU, more on a GPU.
    """
    settings = training.apply_overrides(training.load_recipe(recipe), changes)
    console = wide_console()
    if show:
        console.print(training.describe_recipe(recipe), settings)
        return 0
    if dry_run:
        if download:
            raise ValueError("--dry-run fetches nothing: leave out --download")
        world = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
        planned = training.plan_run(settings, data_dir=data_dir, images=probe, processes=world)
        print_plan(console, planned)
        return 0
    if processes is not None or probe is not None:
        raise ValueError(f"processes and probe are for --dry-run, got {processes} and {probe}")
    folder = out or Path("runs") / recipe
    result = training.train(settings, folder, resume=resume, data_dir=data_dir, download=download)
    if not result.completed:
        return 130
    if training.started_rank() > 0:
        return 0
    console.print(f"{summary(result)}; kept in {folder}", soft_wrap=True)
    return 0


def summary(result: training.TrainResult) -> str:
    """What the last epoch reaches of the test images, and the best one where held-out images choose it."""
    best, last = (values.get("ema_top1", values["top1"]) for values in (result.best, result.metrics))
    if "val_top1" not in result.best:
        return f"last epoch: top-1 {last:.2f} % of the test images, which choose no epoch"
    value = result.best.get("val_ema_top1", result.best["val_top1"])
    epoch = f"best epoch by held-out images, top-1 {value:.2f} %: {result.best['epoch']:.0f}"
    return f"{epoch}, with top-1 {best:.2f} % of the test images; last epoch: {last:.2f} %"
