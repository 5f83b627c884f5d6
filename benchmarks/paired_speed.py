"""Two copies of spimm timed against each other: training steps and folded inference, one call of each copy in turn.

    python benchmarks/paired_speed.py /path/to/before /path/to/after --models qkformer_4_384_cifar --repeats 15

Each path is a folder that holds the package folder `spimm` with its compiled extension. Every copy runs in a process
of its own, which waits while the other runs, so that whatever slows the machine meets both. Prints for each case the
median of the ratios after / before of neighbouring calls with their quartiles: below 1 the second copy is faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import spimm
from spimm.deploy import fold

MODELS = ("qkformer_4_384_cifar", "metaspikeformer_cifar", "spikeatconv_cifar")
KINDS = ("train fp32", "train bf16", "folded fp32", "folded bf16")
Child = subprocess.Popen[str]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def settled(name: str, images: Tensor) -> nn.Module:
    """The model with running statistics of the images, so that its neurons fire."""
    model = spimm.create_model(name)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        for _ in range(2):
            model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    return model


def make(name: str, kind: str, batch: int) -> Callable[[], None]:
    """A call of the case: one training step, or the inference of one batch."""
    torch.manual_seed(0)
    images = torch.randn(batch, *spimm.model_card(name).input_size)
    model, dtype = settled(name, images), torch.bfloat16 if kind.endswith("bf16") else None
    if kind.startswith("folded"):
        folded = fold(model, dtype=dtype)

        def infer() -> None:
            with torch.no_grad():
                folded(images)

        return infer
    labels = torch.arange(batch) % spimm.model_card(name).num_classes
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def serve(batch: int, clock: str) -> None:
    """The child: reads `model, kind` lines, answers each with the seconds of one call."""
    now, cases = CLOCKS[clock], dict[str, Callable[[], None]]()
    for line in sys.stdin:
        if line not in cases:
            cases.clear()
            name, kind = line.strip().split(", ")
            cases[line] = make(name, kind, batch)
        began = now()
        cases[line]()
        print(now() - began, flush=True)


def start(path: str, options: argparse.Namespace) -> Child:
    """A child that imports spimm from `path`."""
    if not (Path(path) / "spimm" / "__init__.py").is_file():
        raise SystemExit(f"{path} holds no package folder spimm; pass the folder that holds it")
    environment = os.environ | {"PYTHONPATH": str(Path(path).resolve()), "OMP_NUM_THREADS": str(options.threads)}
    command = [
        sys.executable,
        "-P",
        __file__,
        path,
        path,
        "--child",
        "--batch",
        str(options.batch),
        "--clock",
        options.clock,
    ]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(child: Child, case: str) -> float:
    """Seconds of one call."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(case + "\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit(f"the process of {child.args[3]!r} ended in {case!r}; its error stands above")  # type: ignore[index]
    return float(answer)


def compare(before: Child, after: Child, case: str, options: argparse.Namespace) -> str:
    """One row: medians of both, and of the ratios of neighbouring calls."""
    times: list[tuple[float, float]] = []
    for turn in range(-options.warmup, options.repeats):
        pair = (before, after) if turn % 2 else (after, before)
        found = {child.pid: ask(child, case) for child in pair}
        if turn >= 0:
            times.append((found[before.pid], found[after.pid]))
    ratios = [b / a for a, b in times]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    medians = [1000 * statistics.median(side) for side in zip(*times, strict=True)]
    return (
        f"{case:40} {medians[0]:9.1f} ms {medians[1]:9.1f} ms   ratio {middle:.3f}  quartiles {low:.3f} to {high:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: the processes' own time, on a shared machine"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        serve(options.batch, options.clock)
        return
    before, after = start(options.before, options), start(options.after, options)
    for model in options.models:
        for kind in options.kinds:
            print(compare(before, after, f"{model}, {kind}", options), flush=True)


if __name__ == "__main__":
    main()
