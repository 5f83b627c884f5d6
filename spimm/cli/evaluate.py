"""`spimm eval`: loss and accuracy on the test images; of networks of spike times also as chips run them."""

import json
from collections import Counter
from typing import Literal

import tyro
from torch import Tensor, nn

from spimm.cli.console import wide_console
from spimm.cli.subject import SubjectOptions
from spimm.deploy import Threshold, run_event_driven, run_stepwise
from spimm.tasks import Classify
from spimm.train import evaluate as evaluate_model
from spimm.words import counted


def evaluate(
    subject: tyro.conf.OmitArgPrefixes[SubjectOptions],
    batch_size: int = 128,
    precision: Literal["fp32", "bf16"] | None = None,
    stepwise: float | None = None,
    threshold: Threshold = "shifted",
    event_driven: bool = False,
    as_json: bool = False,
) -> None:
    """Accuracy of a trained model, e.g. 'spimm eval runs/digits'.

    Args:
        subject: what to evaluate.
        batch_size: images a batch.
        precision: bf16 runs under autocast; that of the run's training by default, fp32 for --model.
        stepwise: simulate a network of spike times in steps of this length, in units of its window.
        threshold: with --stepwise, the authors' threshold, a step early, or the exact one.
        event_driven: run a network of spike times spike by spike and count synaptic operations.
        as_json: print JSON.
    """
    if stepwise is not None and event_driven:
        raise ValueError(f"give either --stepwise or --event-driven, got both, --stepwise {stepwise}")
    if stepwise is not None or event_driven:
        if precision == "bf16":
            raise ValueError(f"--stepwise and --event-driven compute in fp32, got --precision {precision}")
        precision = "fp32"
    loaded = subject.load(batch_size, precision=precision).matched()
    model, counter = loaded.model, EventDriven(loaded.model)
    if event_driven:
        model = counter
    elif stepwise is not None:
        model = Stepwise(model, stepwise, threshold)
    used = loaded.recipe.precision
    metrics = evaluate_model(model, loaded.test_loader(), Classify(loaded.data.num_classes), precision=used)
    operations = {name: count / metrics["images"] for name, count in counter.operations.items()}
    if as_json:
        sizes = {} if loaded.sizes is None else {"bytes": loaded.sizes._asdict()}
        counts = {"operations": operations} if event_driven else {}
        print(json.dumps({"data": loaded.recipe.data, "model": loaded.recipe.model, **metrics, **sizes, **counts}))
        return
    console = wide_console()
    five = f"top-5 {metrics['top5']:.2f} %, " if loaded.data.num_classes > 5 else ""
    console.print(
        f"{loaded.recipe.model} on {loaded.data.name}: top-1 {metrics['top1']:.2f} %, {five}"
        f"loss {metrics['loss']:.4f}, {counted(metrics['images'], 'test image')}"
    )
    if metrics["untied_top1"] < metrics["top1"]:
        console.print(f"with ties counted wrong: top-1 {metrics['untied_top1']:.2f} %")
    if loaded.sizes is not None:
        before, after = loaded.sizes
        console.print(f"weights of {subject.bits} bits per {subject.per}: {after:,} bytes in place of {before:,}")
    if event_driven:
        each = ", ".join(f"{name} {count:,.0f}" for name, count in operations.items())
        console.print(f"{sum(operations.values()):,.0f} synaptic operations an image: {each}")


class Stepwise(nn.Module):
    """The logits of a network of spike times in steps of dt."""

    def __init__(self, model: nn.Module, dt: float, threshold: Threshold):
        super().__init__()
        self.model, self.dt = model, dt
        self.threshold: Threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return run_stepwise(self.model, x, self.dt, threshold=self.threshold).logits


class EventDriven(nn.Module):
    """The logits of a network of spike times spike by spike, and the sum of synaptic operations of all calls."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.operations: Counter[str] = Counter()

    def forward(self, x: Tensor) -> Tensor:
        run = run_event_driven(self.model, x)
        self.operations.update({name: int(counts.sum()) for name, counts in run.operations.items()})
        return run.logits
