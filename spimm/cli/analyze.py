"""`spimm analyze`: firing rates, integer values, operations and energy of a model on real images."""

from itertools import islice
from pathlib import Path
from typing import Literal

import tyro

from spimm.analyze import analyze as analyze_model
from spimm.analyze import energy, plot, save_plot, sparsity, total_spikes
from spimm.analyze import purity as purity_of
from spimm.cli.console import wide_console
from spimm.cli.subject import SubjectOptions
from spimm.deploy import cost_table


def analyze(
    subject: tyro.conf.OmitArgPrefixes[SubjectOptions],
    images: int = 256,
    formula: str = "qkformer",
    first_layer_steps: Literal["once", "each"] = "once",
    rate: float | None = None,
    purity: bool = False,
    out: Path | None = None,
) -> None:
    """Firing rates and energy of a trained model, e.g. 'spimm analyze runs/digits --out report'.

    Prints a row for each layer, of neurons that fire once the sparsity S/N, then the energy at 45 nm with integers read
    both ways: any non-zero value as one spike, and a value of n as n spikes.

    Args:
        subject: what to analyze.
        images: test images to record.
        formula: how the energy is counted: qkformer, metaspikeformer with attention at full width, or spikeatconv with
            softmax attention beside the total.
        first_layer_steps: count the first convolution of a static image once or at each step.
        rate: give the energy at this mean firing rate as well, for all layers behind the first neuron.
        purity: print what each matrix product receives: 0 alone, spikes, integers or reals.
        out: folder for trace.json, energy.json, energy_integers.json, with --rate energy_given.json, and analysis.png.
    """
    if images < 1:
        raise ValueError(f"images is {images}; wanted at least 1")
    if rate is not None and not rate >= 0:
        raise ValueError(f"rate is {rate}; wanted at least 0")
    batch = min(images, 64)
    loaded = subject.load(batch)
    batches = (inputs for inputs, _ in islice(loaded.test_loader().iterate(0), -(-images // batch)))
    result = analyze_model(
        loaded.model, batches, model_name=loaded.recipe.model, formula=formula, first_layer_steps=first_layer_steps
    )
    reports = {"energy": result.energy, "energy_integers": result.integer_energy}
    if rate is not None:
        reports["energy_given"] = energy(
            result.trace, formula, count_integers=False, first_layer_steps=first_layer_steps, rates=rate
        )
    console = wide_console()
    console.print(result.trace.table())
    if any(layer.times for layer in result.trace.layers):
        spikes = total_spikes(result.trace)
        console.print(f"sparsity S/N {sparsity(result.trace):.4f}: {spikes:,.1f} spikes per image, outputs included")
    if loaded.merge_costs:
        console.print(cost_table(loaded.merge_costs))
    if purity:
        console.print(purity_of(result.trace).table())
    for report in reports.values():
        console.print(report.table())
    if out is not None:
        result.trace.save(out / "trace.json")
        for name, report in reports.items():
            report.save(out / f"{name}.json")
        save_plot(plot(result.trace, result.energy), out / "analysis.png")
        console.print(f"written to {out}", soft_wrap=True)
