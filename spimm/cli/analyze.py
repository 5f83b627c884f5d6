"""`spimm analyze`: firing rates, integer values, operations and energy of a model on real images."""

from itertools import islice
from pathlib import Path
from typing import Literal

import tyro

from spimm.analyze import analyze as analyze_model
from spimm.analyze import plot, save_plot
from spimm.cli.console import wide_console
from spimm.cli.subject import SubjectOptions


def analyze(
    subject: tyro.conf.OmitArgPrefixes[SubjectOptions],
    images: int = 256,
    first_layer_steps: Literal["once", "each"] = "once",
    out: Path | None = None,
) -> None:
    """Firing rates and energy of a trained model, e.g. 'spimm analyze runs/digits --out report'.

    Prints a row for each layer, then the energy at 45 nm with integers read both ways: any non-zero value as one spike,
    and a value of n as n spikes.

    Args:
        subject: what to analyze.
        images: test images to record.
        first_layer_steps: count the first convolution of a static image once or at each step.
        out: folder for trace.json, energy.json, energy_integers.json and analysis.png.
    """
    if images < 1:
        raise ValueError(f"images is {images}; wanted at least 1")
    batch = min(images, 64)
    loaded = subject.load(batch)
    batches = (inputs for inputs, _ in islice(loaded.test_loader().iterate(0), -(-images // batch)))
    result = analyze_model(loaded.model, batches, model_name=loaded.recipe.model, first_layer_steps=first_layer_steps)
    console = wide_console()
    console.print(result.trace.table())
    for report in (result.energy, result.integer_energy):
        console.print(report.table())
    if out is not None:
        result.trace.save(out / "trace.json")
        result.energy.save(out / "energy.json")
        result.integer_energy.save(out / "energy_integers.json")
        save_plot(plot(result.trace, result.energy), out / "analysis.png")
        console.print(f"written to {out}", soft_wrap=True)
