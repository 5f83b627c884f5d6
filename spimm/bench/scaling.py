"""Cases of growth: a training step and inference against steps, batch, tokens and width, each a line in a plot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from spimm.bench.network import FOLDED
from spimm.bench.registry import Options, Plan, Series, Sweep, register_case
from spimm.bench.timing import stopwatch
from spimm.bench.workload import Workload, cifar, inference_run, training_step
from spimm.deploy import fold

BATCH_SIZE = 4
REDUCTION = 4
"""Of height and width, from the image to the last stage."""
NUM_STEPS, QUICK_NUM_STEPS = (1, 2, 4, 8, 16), (1, 2)
BATCHES, QUICK_BATCHES = (1, 2, 4, 8, 16, 32, 64), (1, 2)
SIZES, QUICK_SIZES = (16, 32, 64, 128), (8, 16)
WIDTHS, QUICK_WIDTHS = (96, 192, 384, 768), (16, 32)
TRAINING, INFERENCE, PEER = "spimm training step, bf16", "spimm inference, folded bf16", "spikingjelly inference, bf16"


def _plan(
    options: Options, label: str, works: Mapping[int, Workload], *, expected: float | None, peer: bool = False
) -> Plan:
    """One workload for each number; networks are shared between workloads that differ in the batch alone."""
    networks: dict[tuple[str, str], nn.Module] = {}

    def network(kind: str, work: Workload, make: Callable[[], nn.Module]) -> nn.Module:
        key = (kind, str(sorted(work.options.items())))
        if key not in networks:
            networks[key] = make()
        return networks[key]

    def exact(work: Workload, library: str) -> nn.Module:
        return work.exact_networks((library,), work.batch()[0])[library]

    names: dict[str, dict[float, str]] = {}
    sides: dict[str, Callable[[], float]] = {}

    def add(series: str, number: float, run: Callable[[], object]) -> None:
        side = names.setdefault(series, {})[number] = f"{series}, {label} {number:g}"
        sides[side] = stopwatch(run)

    for number, work in works.items():
        images, labels = work.batch()
        trained = network("training", work, work.ours)
        add(TRAINING, number, training_step(trained, images, labels, "bf16"))
        folded = network("folded", work, lambda work=work: fold(exact(work, "spimm"), dtype=torch.bfloat16))
        add(INFERENCE, number, inference_run(folded, images, "fp32"))
        if peer and options.peers:
            theirs = network("peer", work, lambda work=work: exact(work, "spikingjelly"))
            add(PEER, number, inference_run(theirs, images, "bf16"))
    smallest = next(iter(works.values()))
    return Plan(
        setting=smallest.setting() | {"sweep": label, "numbers": list(works), "inference of ours": FOLDED},
        check=lambda: smallest.check(options.libraries),
        sides=sides,
        sweep=Sweep(label, [Series(series, points, expected) for series, points in names.items()]),
        warmup=1,
        repeats=1 if options.quick else 3,
    )


def _base(options: Options) -> Workload:
    return cifar(True) if options.quick else cifar(False, batch_size=BATCH_SIZE)


def _with(work: Workload, **options: int) -> Workload:
    return replace(work, options={**work.options, **options})


def _numbers(options: Options, full: Sequence[int], quick: Sequence[int]) -> Sequence[int]:
    return quick if options.quick else full


@register_case("scaling_steps", "training step and inference of QKFormer 4-384 against T")
def scaling_steps(options: Options) -> Plan:
    """Expected: linear, or below it where what all steps share weighs."""
    base = _base(options)
    works = {steps: _with(base, num_steps=steps) for steps in _numbers(options, NUM_STEPS, QUICK_NUM_STEPS)}
    return _plan(options, "T", works, expected=1.0, peer=True)


@register_case("scaling_batch", "training step and inference of QKFormer 4-384 against the batch")
def scaling_batch(options: Options) -> Plan:
    """Expected: linear, or below it where fixed costs weigh."""
    base = _base(options)
    works = {count: replace(base, batch_size=count) for count in _numbers(options, BATCHES, QUICK_BATCHES)}
    return _plan(options, "batch", works, expected=1.0)


@register_case("scaling_tokens", "training step and inference of QKFormer 4-384 against tokens of the last stage")
def scaling_tokens(options: Options) -> Plan:
    """Expected: linear; attention takes k^T v first, so that its cost is linear as well."""
    base = replace(_base(options), batch_size=2)
    sizes = _numbers(options, SIZES, QUICK_SIZES)
    works = {(size // REDUCTION) ** 2: replace(base, size=size) for size in sizes}
    return _plan(options, "tokens", works, expected=1.0)


@register_case("scaling_width", "training step and inference of QKFormer 4-D against its width D")
def scaling_width(options: Options) -> Plan:
    """Between linear (neurons, norms) and quadratic (convolutions)."""
    base = _base(options)
    works = {width: _with(base, embed_dim=width) for width in _numbers(options, WIDTHS, QUICK_WIDTHS)}
    return _plan(options, "width", works, expected=None)
