"""Case of the first training step: what one waits for before the steady speed is reached."""

from collections.abc import Callable
from typing import Any

from spimm.bench.fresh import Trained, sampler
from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Options, Plan, Ratio, register_case

STEADY_STEPS = 4
GOAL = 1.5
"""At most of the first step over a steady one."""


class _Process:
    """One process a round: its first step is a sample of one side, its steady step a sample of the other."""

    def __init__(self, run: Callable[[], Any]):
        self.run, self.steady_step = run, 0.0

    def first(self) -> float:
        taken, self.steady_step = self.run()
        return taken

    def steady(self) -> float:
        return self.steady_step


@register_case("first_step", "first training step of QKFormer 4-384 in a fresh process, and a steady one")
def first_step(options: Options) -> Plan:
    """Goal: the first step takes at most 1.5 times a steady one; there is nothing to compile or to tune."""
    sides, ratios = {}, []
    for precision in PRECISIONS:
        trained = Trained("spimm", precision, options.quick)
        process = _Process(sampler("first", trained, STEADY_STEPS))
        first, steady = (f"{trained.name} {which} step" for which in ("first", "steady"))
        sides |= {first: process.first, steady: process.steady}
        ratios.append(Ratio(steady, first, 1 / GOAL))
    work = trained.workload()
    return Plan(
        setting=work.setting() | {"steady": f"median of {STEADY_STEPS} steps after the first"},
        check=lambda: work.check(("spimm",)),
        sides=sides,
        ratios=ratios,
        warmup=0,
        repeats=1 if options.quick else 3,
    )
