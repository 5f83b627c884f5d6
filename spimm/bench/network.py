"""Cases of whole networks: a training step and inference, fp32 and bf16 autocast, folded for inference.

Rates are of the convolutions' and products' operations, which are the same for every side, over the whole call.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from spimm.bench.agreement import near
from spimm.bench.limits import matmul, matmul_limit
from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Options, Plan, Ratio, Work, register_case
from spimm.bench.timing import stopwatch
from spimm.bench.workload import (
    LOGITS_TOLERANCE,
    Workload,
    check_networks,
    cifar,
    imagenet,
    inference_run,
    meta_cifar,
    meta_imagenet,
    spikeatconv_cifar,
    spikeatconv_imagenet,
    training_step,
)
from spimm.deploy import Merge, fold

NUM_STEPS_224 = (4, 1)
SPIKEATCONV_STEPS_224 = (2, 1)
FOLDED = "spimm folded"
META_TRAINING, META_INFERENCE = 5.0, 8.0
"""Goals of Meta-SpikeFormer: our best over the peer's fp32."""
META_FORMS: tuple[Merge, ...] = ("dense", "split")
OPTIMIZER = "AdamW, fused"
OFFICIAL = "SpikingJelly's own qkformer_10_384"


def step_name(num_steps: int | None) -> str:
    """What a side's name says of T where sides differ in it."""
    return "" if num_steps is None else f" T={num_steps}"


class _Sides:
    """Collects sides and their work; `suffix` tells apart the sides of several workloads."""

    def __init__(self, options: Options):
        self.options = options
        self.sides: dict[str, Callable[[], float]] = {}
        self.work: dict[str, Work] = {}
        self.checks: list[Callable[[], dict[str, float]]] = []

    def add(self, library: str, precision: str, suffix: str, run: Callable[[], object], flops: float) -> None:
        name = f"{library} {precision}{suffix}"
        self.sides[name] = stopwatch(run)
        self.work[name] = Work(flops, "FLOP", matmul(precision))

    def plan(self, setting: dict[str, object], ratios: Sequence[Ratio], *, repeats: int) -> Plan:
        sides, work = dict(self.sides), dict(self.work)
        for precision in PRECISIONS:
            sides[matmul(precision)], work[matmul(precision)] = matmul_limit(precision, self.options.quick)
        return Plan(
            setting=setting | {"FLOP": {side: item.amount for side, item in self.work.items()}},
            check=lambda: {name: value for check in self.checks for name, value in check().items()},
            sides=sides,
            ratios=[ratio for ratio in ratios if {ratio.slower, ratio.faster} <= sides.keys()],
            work=work,
            warmup=1 if self.options.quick else 6,  # memory that a step frees settles over the first ones
            repeats=2 if self.options.quick else repeats,
        )


def _add_training(found: _Sides, work: Workload, suffix: str) -> None:
    images, labels = work.batch()
    flops = work.flops(training=True)
    for library in found.options.libraries:
        for precision in PRECISIONS:
            step = training_step(work.network(library), images, labels, precision)
            found.add(library, precision, suffix, step, flops)
    found.checks.append(lambda: _suffixed(work.check(found.options.libraries), suffix))


def _add_inference(found: _Sides, work: Workload, suffix: str, forms: Sequence[Merge] = ()) -> None:
    """The networks timed are those of the check. Also in bf16: `forms`, ways to fold rows of convolutions."""
    images, labels = work.batch()
    networks = work.exact_networks(found.options.libraries, images)
    flops = work.flops(training=False)
    for library, network in networks.items():
        for precision in PRECISIONS:
            found.add(library, precision, suffix, inference_run(network, images, precision), flops)
    ours = networks["spimm"]
    named: dict[str, Merge] = {FOLDED: "cheaper"}
    named.update({f"{FOLDED} {form}": form for form in forms})
    folded = {name: fold(ours, merge=form) for name, form in named.items()}
    found.add(FOLDED, "fp32", suffix, inference_run(folded[FOLDED], images, "fp32"), flops)
    for name, form in named.items():
        stored = fold(ours, dtype=torch.bfloat16, merge=form)
        found.add(name, "bf16", suffix, inference_run(stored, images, "fp32"), flops)

    def check() -> dict[str, float]:
        differences = check_networks(networks, images, labels)
        with torch.no_grad():
            expected = ours(images)
            for name, network in folded.items():
                what = name.replace("spimm", "logits,")
                differences[what] = near(network(images), expected, tolerance=LOGITS_TOLERANCE, what=what)
        return differences

    found.checks.append(lambda: _suffixed(check(), suffix))


def _suffixed(found: dict[str, float], suffix: str) -> dict[str, float]:
    return {name + suffix: value for name, value in found.items()}


@register_case("train_step", "training step of QKFormer 4-384: forward, cross-entropy, backward, AdamW")
def train_step(options: Options) -> Plan:
    """Goals over the peer: 2 times both in fp32, 7 times ours in bf16 over its fp32, 3.5 times both in bf16."""
    work, found = cifar(options.quick), _Sides(options)
    _add_training(found, work, "")
    ratios = [
        Ratio("spikingjelly fp32", "spimm fp32", 2.0),
        Ratio("spikingjelly fp32", "spimm bf16", 7.0),
        Ratio("spikingjelly bf16", "spimm bf16", 3.5),
    ]
    return found.plan(work.setting() | {"optimizer": OPTIMIZER}, ratios, repeats=7)


@register_case("inference", "inference of QKFormer 4-384, eval mode, no gradients")
def inference(options: Options) -> Plan:
    """Goals: 2.5 times the peer's speed in fp32, 10 times with ours folded and in bf16 over its fp32."""
    work, found = cifar(options.quick), _Sides(options)
    _add_inference(found, work, "")
    ratios = [
        Ratio("spikingjelly fp32", "spimm fp32", 2.5),
        Ratio("spikingjelly fp32", f"{FOLDED} fp32"),
        Ratio("spikingjelly fp32", f"{FOLDED} bf16", 10.0),
        Ratio("spikingjelly bf16", "spimm bf16"),
        Ratio("spikingjelly bf16", f"{FOLDED} bf16"),
    ]
    return found.plan(work.setting(), ratios, repeats=10)


def _ratios(best: str, goal: float | None, suffix: str = "") -> list[Ratio]:
    """The peer's fp32 over ours, over our best, which has the goal if there is one, and its bf16 over our best."""
    return [
        Ratio(f"spikingjelly fp32{suffix}", f"spimm fp32{suffix}"),
        Ratio(f"spikingjelly fp32{suffix}", f"{best}{suffix}", goal),
        Ratio(f"spikingjelly bf16{suffix}", f"{best}{suffix}"),
    ]


def _at_224(
    options: Options,
    workload: Callable[[bool, int], Workload],
    add: Callable[[_Sides, Workload, str], None],
    ratios: Callable[[str], list[Ratio]],
    *,
    steps: Sequence[int] = NUM_STEPS_224,
    repeats: int,
    **setting: object,
) -> Plan:
    """`workload` for each number of steps, `ratios` for each suffix of sides' names."""
    found, wanted = _Sides(options), []
    for num_steps in steps:
        suffix = step_name(num_steps)
        add(found, workload(options.quick, num_steps), suffix)
        wanted += ratios(suffix)
    settled = workload(options.quick, steps[0]).setting() | {"num_steps": list(steps)}
    return found.plan(settled | setting, wanted, repeats=repeats)


@register_case("train_step_224", "training step of QKFormer 10-384 at 224x224, T = 4 and T = 1")
def train_step_224(options: Options) -> Plan:
    """Goal: our bf16 5 times as fast as SpikingJelly's own network in fp32."""
    ratios = partial(_ratios, "spimm bf16", 5.0)
    return _at_224(options, imagenet, _add_training, ratios, repeats=5, peer=OFFICIAL)


@register_case("inference_224", "inference of QKFormer 10-384 at 224x224, T = 4 and T = 1")
def inference_224(options: Options) -> Plan:
    """Goal: folded in bf16, 5 times as fast as SpikingJelly's own network in fp32."""
    ratios = partial(_ratios, f"{FOLDED} bf16", 5.0)
    return _at_224(options, imagenet, _add_inference, ratios, repeats=7, peer=OFFICIAL)


@register_case("meta_train_step", "training step of the small Meta-SpikeFormer for 32x32, T = 4")
def meta_train_step(options: Options) -> Plan:
    """Goal: our bf16 5 times as fast as the peer in fp32."""
    work, found = meta_cifar(options.quick), _Sides(options)
    _add_training(found, work, "")
    return found.plan(work.setting() | {"optimizer": OPTIMIZER}, _ratios("spimm bf16", META_TRAINING), repeats=7)


@register_case("meta_inference", "inference of the small Meta-SpikeFormer for 32x32, T = 4")
def meta_inference(options: Options) -> Plan:
    """Goal: folded in bf16, 8 times as fast as the peer in fp32."""
    work, found = meta_cifar(options.quick), _Sides(options)
    _add_inference(found, work, "", META_FORMS)
    return found.plan(work.setting(), _meta_inference_ratios(), repeats=10)


@register_case("meta_train_step_224", "training step of Meta-SpikeFormer 15.1M at 224x224, T = 4 and T = 1")
def meta_train_step_224(options: Options) -> Plan:
    """Goal as `meta_train_step`."""
    ratios = partial(_ratios, "spimm bf16", META_TRAINING)
    return _at_224(options, meta_imagenet, _add_training, ratios, repeats=5, optimizer=OPTIMIZER)


@register_case("meta_inference_224", "inference of Meta-SpikeFormer 15.1M at 224x224, T = 4 and T = 1")
def meta_inference_224(options: Options) -> Plan:
    """Goal as `meta_inference`."""
    add = partial(_add_inference, forms=META_FORMS)
    return _at_224(options, meta_imagenet, add, _meta_inference_ratios, repeats=7)


def _meta_inference_ratios(suffix: str = "") -> list[Ratio]:
    names = [f"{FOLDED} fp32", *(f"{FOLDED} {form} bf16" for form in META_FORMS)]
    others = [Ratio(f"spikingjelly fp32{suffix}", f"{name}{suffix}") for name in names]
    return _ratios(f"{FOLDED} bf16", META_INFERENCE, suffix) + others


@register_case("spikeatconv_train_step", "training step of the small SpikeAtConv for 32x32, T = 2")
def spikeatconv_train_step(options: Options) -> Plan:
    """MBPL and SISA, as the peer."""
    work, found = spikeatconv_cifar(options.quick), _Sides(options)
    _add_training(found, work, "")
    return found.plan(work.setting() | {"optimizer": OPTIMIZER}, _ratios("spimm bf16", None), repeats=7)


@register_case("spikeatconv_inference", "inference of the small SpikeAtConv for 32x32, T = 2")
def spikeatconv_inference(options: Options) -> Plan:
    """Ours folded as well."""
    work, found = spikeatconv_cifar(options.quick), _Sides(options)
    _add_inference(found, work, "")
    return found.plan(work.setting(), _folded_ratios(), repeats=10)


@register_case("spikeatconv_train_step_224", "training step of SpikeAtConv-Tiny at 224x224, T = 2 and T = 1")
def spikeatconv_train_step_224(options: Options) -> Plan:
    """As `spikeatconv_train_step`."""
    ratios = partial(_ratios, "spimm bf16", None)
    return _at_224(
        options,
        spikeatconv_imagenet,
        _add_training,
        ratios,
        steps=SPIKEATCONV_STEPS_224,
        repeats=5,
        optimizer=OPTIMIZER,
    )


@register_case("spikeatconv_inference_224", "inference of SpikeAtConv-Tiny at 224x224, T = 2 and T = 1")
def spikeatconv_inference_224(options: Options) -> Plan:
    """As `spikeatconv_inference`."""
    return _at_224(
        options, spikeatconv_imagenet, _add_inference, _folded_ratios, steps=SPIKEATCONV_STEPS_224, repeats=7
    )


def _folded_ratios(suffix: str = "") -> list[Ratio]:
    folded = Ratio(f"spikingjelly fp32{suffix}", f"{FOLDED} fp32{suffix}")
    return [*_ratios(f"{FOLDED} bf16", None, suffix), folded]
