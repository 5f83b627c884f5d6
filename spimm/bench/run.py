"""Runs a case: prepare, check, measure, record."""

from collections.abc import Callable
from datetime import UTC, datetime

import torch

from spimm.bench import environment
from spimm.bench.curves import curves_of
from spimm.bench.rates import rates_of
from spimm.bench.registry import Options, find_case
from spimm.bench.results import Comparison, Record
from spimm.bench.timing import Summary, fixed_threads, pairwise, take_turns


def run_case(
    name: str,
    options: Options | None = None,
    *,
    threads: int | None = None,
    command: str = "",
    on_stage: Callable[[str], None] = lambda _: None,
) -> Record:
    """The record of a case. `command` is kept in it; `on_stage` is told what is being done.

    Raises Mismatch, before anything is measured, when the sides do not agree; ValueError for an unknown case or a
    number of threads below 1; ImportError when a peer is wanted and missing. The global random state stays as it was.
    """
    case, options = find_case(name), options or Options()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with fixed_threads(threads) as count, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        on_stage("preparing")
        plan = case.prepare(options)
        on_stage("checking that the sides agree")
        checks = dict(plan.check())
        load = environment.load_average()
        on_stage("warming up")
        samples = take_turns(
            plan.sides,
            warmup=plan.warmup,
            repeats=plan.repeats,
            on_round=lambda turn: on_stage(f"measuring, round {turn + 1} of {plan.repeats}"),
        )
    sides = {side: Summary.of(values) for side, values in samples.items()}
    return Record(
        case=case.name,
        about=case.about,
        quick=options.quick,
        unit=plan.unit,
        setting=dict(plan.setting),
        checks=checks,
        sides=sides,
        comparisons=[
            Comparison.of(
                ratio, Summary.of(pairwise(samples[ratio.slower], samples[ratio.faster])), quick=options.quick
            )
            for ratio in plan.ratios
        ],
        rates=rates_of(plan.work, samples),
        curves=curves_of(plan.sweep, sides),
        hardware=environment.hardware(),
        versions=environment.versions(peers=options.peers),
        threads=count,
        warmup=plan.warmup,
        repeats=plan.repeats,
        date=started,
        command=command,
        load_average=load,
    )
