"""Cases of peak memory: each sample is a process of its own that takes a few training steps."""

from spimm.bench.fresh import CHECKPOINTED, MEMOPT, PACKED, PLAIN, Trained, sampler
from spimm.bench.network import step_name
from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Options, Plan, Ratio, Series, Sweep, register_case
from spimm.kernels.resident import proc

STEPS = 2
PLAIN_GOAL, MEMOPT_GOAL = 0.35, 0.7
"""Wanted of our peak over SpikingJelly's, plain and with its `memopt`."""
SWEEP_STEPS = (1, 2, 4, 8, 16)
QUICK_SWEEP_STEPS = (1, 2)
SWEEP_BATCH = 4


def _kept(options: Options) -> list[tuple[str, str]]:
    """Libraries and their ways to keep activations."""
    ours, theirs = (PLAIN, PACKED, CHECKPOINTED), (PLAIN, MEMOPT) if options.peers else ()
    return [("spimm", kept) for kept in ours] + [("spikingjelly", kept) for kept in theirs]


def _plan(options: Options, *, at_224: bool) -> Plan:
    proc("clear_refs")
    every = [
        Trained(library, precision, options.quick, at_224=at_224, kept=kept)
        for library, kept in _kept(options)
        for precision in (("bf16",) if options.quick else PRECISIONS)
    ]
    sides = {trained.name: sampler("peak", trained, STEPS) for trained in every}
    goals = {("spikingjelly", PACKED): PLAIN_GOAL, (f"spikingjelly {MEMOPT}", CHECKPOINTED): MEMOPT_GOAL}
    ratios = [
        Ratio(f"{slower} {precision}", f"spimm {kept} {precision}", 1 / goal)
        for (slower, kept), goal in goals.items()
        for precision in PRECISIONS
    ]
    ratios += [Ratio(f"spikingjelly {MEMOPT} {precision}", f"spimm {PACKED} {precision}") for precision in PRECISIONS]
    work = every[0].workload()
    return Plan(
        setting=work.setting() | {"optimizer": "AdamW, fused", "steps": STEPS},
        check=lambda: work.check(options.libraries),
        sides=sides,
        ratios=[ratio for ratio in ratios if {ratio.slower, ratio.faster} <= sides.keys()],
        unit="MiB",
        warmup=0,
        repeats=1 if options.quick else 2,
    )


@register_case("memory", "peak resident memory of a training step of QKFormer 4-384")
def memory(options: Options) -> Plan:
    """MiB on top of model, optimiser and batch, each sample in a fresh process. A quick run takes bf16 alone.

    Goals, in the same precision: packed spikes need 0.35 of what SpikingJelly needs; where both sides compute
    activations again, 0.7 of what it needs with `memopt`.
    """
    return _plan(options, at_224=False)


@register_case("memory_224", "peak resident memory of a training step of QKFormer 10-384 at 224x224, T = 4")
def memory_224(options: Options) -> Plan:
    """As `memory`; the peer is SpikingJelly's own network."""
    return _plan(options, at_224=True)


@register_case("memory_steps", "peak resident memory of a training step of QKFormer 4-384 against T")
def memory_steps(options: Options) -> Plan:
    """bf16, one line for each library and way to keep activations."""
    proc("clear_refs")
    batch_size = None if options.quick else SWEEP_BATCH
    sides, series = {}, []
    for library, kept in _kept(options):
        names: dict[float, str] = {}
        for num_steps in QUICK_SWEEP_STEPS if options.quick else SWEEP_STEPS:
            trained = Trained(library, "bf16", options.quick, num_steps=num_steps, batch_size=batch_size, kept=kept)
            names[num_steps] = trained.name + step_name(num_steps)
            sides[names[num_steps]] = sampler("peak", trained, STEPS)
        series.append(Series(trained.name, names))
    work = trained.workload()
    return Plan(
        setting=work.setting() | {"num_steps": list(names), "steps": STEPS},
        check=lambda: work.check(options.libraries),
        sides=sides,
        sweep=Sweep("T", series),
        unit="MiB",
        warmup=0,
        repeats=1,
    )
