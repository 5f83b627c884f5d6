"""`spimm quickstart`: the main job on the embedded digits, offline: accuracy, firing rates, energy, one figure."""

import time
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from spimm.analyze import analyze, plot, save_plot
from spimm.cli.console import wide_console
from spimm.cli.subject import SubjectOptions
from spimm.tasks import Classify
from spimm.train import apply_overrides, evaluate, load_recipe, train


def quickstart(
    changes: Annotated[tuple[str, ...], tyro.conf.Positional] = (), out: Path = Path("runs/quickstart")
) -> int:
    """Train a small QKFormer on scikit-learn's digits, then show its accuracy, firing rates and energy.

    Takes about a minute on two cores and needs no network. A second call in the same folder trains no further.

    Args:
        changes: settings of the recipe 'digits' to change, as key=value.
        out: folder for the run, its figure and its numbers.
    """
    console, started = wide_console(), time.perf_counter()
    recipe = apply_overrides(load_recipe("digits"), changes)
    console.print(f"training {recipe.model} on {recipe.data}, T = {recipe.model_options.get('num_steps', 4)}")
    if not train(recipe, out).completed:
        return 130
    subject = SubjectOptions(run=out, which="last").load(batch_size=128)
    metrics = evaluate(subject.model, subject.test_loader(), Classify(subject.data.num_classes))
    result = analyze(subject.model, (images for images, _ in subject.test_loader().iterate(0)), model_name=recipe.model)
    figure = save_plot(plot(result.trace, result.energy), out / "quickstart.png")
    result.trace.save(out / "trace.json")
    result.energy.save(out / "energy.json")

    rates = result.trace.firing_rates()
    mean_rate = sum(rates.values()) / len(rates)
    table = Table(title="quickstart", show_header=False)
    table.add_row("test accuracy", f"{metrics['top1']:.2f} % of {metrics['images']} images never trained on")
    table.add_row("firing rate", f"{mean_rate:.3f} spikes a step, mean of {len(rates)} neuron layers")
    table.add_row(
        "energy, 45 nm",
        f"{1e6 * result.energy.millijoules:.1f} nJ an image ({1e6 * result.integer_energy.millijoules:.1f} nJ with "
        f"integers as several spikes; {1e6 * result.energy.dense_millijoules:.1f} nJ as an ANN)",
    )
    table.add_row("figure", str(figure))
    table.add_row("time", f"{time.perf_counter() - started:.0f} s")
    console.print(table)
    console.print(
        f"next: spimm analyze {out}; spimm train digits model_options.neuron=plif; spimm models", soft_wrap=True
    )
    return 0
