"""How a plan looks in the terminal."""

from rich.console import Console
from rich.table import Table

from spimm.train import DryRun
from spimm.train.plan import FLOAT, resting_bytes
from spimm.words import counted

GIB = 2**30


def print_plan(console: Console, dry_run: DryRun) -> None:
    """One line for each number of the plan, then what it leaves out."""
    plan = dry_run.plan
    recipe, probe = plan.recipe, plan.probe
    table = Table("", recipe.name, box=None, show_header=True)
    held_out = f", {plan.data.held_out:,} held out" if plan.data.held_out else ""
    lines = {
        "model": f"{recipe.model}, {plan.parameters:,} parameters",
        "data": f"{recipe.data}, {plan.data.train:,} for training{held_out} and {plan.data.test:,} for tests",
        "batch": f"{counted(recipe.batch_size, 'image')}, {plan.process_images} on each of "
        f"{counted(plan.processes, 'process')}",
        "steps": f"{plan.steps:,}: {counted(recipe.total_epochs, 'epoch')} of {plan.steps_per_epoch:,}",
        "images": f"{plan.images:,} in training",
        "speed": f"{plan.images_per_second:,.3g} images/s on {dry_run.device}, in a step of {probe.images}",
        "hours": f"{plan.hours:,.3g}: training {plan.train_hours:,.3g}, evaluation {plan.eval_hours:,.3g}",
        "loading": f"{plan.loading_rate:,.3g} images/s must be read and augmented to keep up",
        "memory": _memory(dry_run),
    }
    for label, text in lines.items():
        table.add_row(label, text)
    console.print(table)
    for note in dry_run.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _memory(dry_run: DryRun) -> str:
    plan = dry_run.plan
    if plan.memory is not None and plan.bytes is not None:
        line = f"{plan.memory.fixed / GIB:.2f} GiB and {plan.memory.per_image / GIB:.4f} an image"
        return f"{plan.bytes / GIB:.2f} GiB a process, on the line through two measured steps: {line}"
    if plan.probe.peak is not None:
        return f"{plan.probe.peak / GIB:.2f} GiB, measured in a step of {plan.probe.images}"
    known = resting_bytes(plan.parameters, plan.recipe) + FLOAT * plan.parameters
    return f"{known / GIB:.2f} GiB at the least: weights, gradients and moments; activations could not be measured"
