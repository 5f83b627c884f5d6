"""`spimm eval`: loss and accuracy on the test images."""

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from spimm.cli.console import wide_console
from spimm.cli.subject import load_subject
from spimm.tasks import Classify
from spimm.train import evaluate as evaluate_model


def evaluate(
    run: Annotated[Path | None, tyro.conf.Positional] = None,
    model: str | None = None,
    weights: Path | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    which: Literal["best", "last"] = "best",
    batch_size: int = 128,
    num_steps: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    as_json: bool = False,
) -> None:
    """Accuracy of a trained model, e.g. 'spimm eval runs/digits'.

    Args:
        run: folder that 'spimm train' wrote.
        model: a model by name, in place of a run.
        weights: safetensors file for '--model'.
        data: data set; by default the run's, or digits.
        data_dir: folder with the data sets; the environment variable SPIMM_DATA by default.
        which: the run's best or last checkpoint.
        batch_size: images a batch.
        num_steps: time steps, if not those of training.
        precision: bf16 runs under autocast.
        as_json: print JSON.
    """
    subject = load_subject(
        run, model=model, weights=weights, data=data, data_dir=data_dir, which=which, batch_size=batch_size,
        num_steps=num_steps,
    )  # fmt: skip
    metrics = evaluate_model(
        subject.model, subject.test_loader(), Classify(subject.data.num_classes), precision=precision
    )
    if as_json:
        print(json.dumps({"data": subject.recipe.data, "model": subject.recipe.model, **metrics}))
        return
    wide_console().print(
        f"{subject.recipe.model} on {subject.data.name}: top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} %, "
        f"loss {metrics['loss']:.4f}, {metrics['images']} test images"
    )
