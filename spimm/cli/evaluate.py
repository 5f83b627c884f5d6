"""`spimm eval`: loss and accuracy on the test images."""

import json
from typing import Literal

import tyro

from spimm.cli.console import wide_console
from spimm.cli.subject import SubjectOptions
from spimm.tasks import Classify
from spimm.train import evaluate as evaluate_model


def evaluate(
    subject: tyro.conf.OmitArgPrefixes[SubjectOptions],
    batch_size: int = 128,
    precision: Literal["fp32", "bf16"] = "fp32",
    as_json: bool = False,
) -> None:
    """Accuracy of a trained model, e.g. 'spimm eval runs/digits'.

    Args:
        subject: what to evaluate.
        batch_size: images a batch.
        precision: bf16 runs under autocast.
        as_json: print JSON.
    """
    loaded = subject.load(batch_size, precision=precision)
    metrics = evaluate_model(loaded.model, loaded.test_loader(), Classify(loaded.data.num_classes), precision=precision)
    if as_json:
        sizes = {} if loaded.sizes is None else {"bytes": loaded.sizes._asdict()}
        print(json.dumps({"data": loaded.recipe.data, "model": loaded.recipe.model, **metrics, **sizes}))
        return
    console = wide_console()
    console.print(
        f"{loaded.recipe.model} on {loaded.data.name}: top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} %, "
        f"loss {metrics['loss']:.4f}, {metrics['images']} test images"
    )
    if loaded.sizes is not None:
        before, after = loaded.sizes
        console.print(f"weights of {subject.bits} bits per {subject.per}: {after:,} bytes in place of {before:,}")
