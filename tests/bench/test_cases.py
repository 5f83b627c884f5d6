"""Every case runs, checks before it measures, and gives a full record."""

import mmap
import sys
from collections.abc import Iterator

import pytest

from spimm.bench import (
    Mismatch,
    Options,
    Plan,
    Ratio,
    find_case,
    kernels,
    list_cases,
    register_case,
    registry,
    run_case,
)
from spimm.bench.memory import forget_peak, in_fresh_process, resident

QUICK = Options(quick=True)
PRECISIONS = {"memory": ["bf16"]}


@pytest.fixture
def no_new_cases() -> Iterator[None]:
    before = dict(registry._cases)
    yield
    registry._cases.clear()
    registry._cases.update(before)


@pytest.mark.parametrize("name", [case.name for case in list_cases()])
def test_a_quick_run_of_every_case_gives_a_full_record(name: str) -> None:
    pytest.importorskip("spikingjelly")
    record = run_case(name, QUICK, threads=1, command=f"spimm bench {name} --quick")
    precisions = PRECISIONS.get(name, ["fp32", "bf16"])
    libraries = ("spimm", "spikingjelly")
    assert set(record.sides) == {f"{library} {precision}" for library in libraries for precision in precisions}
    assert all(summary.min > 0 and len(summary.samples) == record.repeats for summary in record.sides.values())
    assert {(item.slower.split()[0], item.faster.split()[0]) for item in record.comparisons} == {libraries[::-1]}
    assert record.checks
    assert record.setting
    assert record.hardware["cpu"] and record.hardware["cores"] and record.hardware["spimm_isa"]
    assert record.versions.keys() == {"spimm", "torch", "spikingjelly", "python"} and all(record.versions.values())
    assert (record.case, record.quick, record.threads, record.command) == (name, True, 1, f"spimm bench {name} --quick")


@pytest.mark.parametrize("name", ["norm_lif", "lif", "train_step", "inference"])
def test_without_peers_ours_alone_is_checked_and_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spikingjelly.activation_based", None)
    record = run_case(name, Options(peers=False, quick=True))
    assert set(record.sides) == {"spimm fp32", "spimm bf16"}
    assert record.checks
    assert record.comparisons == []
    assert record.versions["spikingjelly"] is None


def test_goals_stand_where_the_full_size_is_run() -> None:
    pytest.importorskip("spikingjelly")
    goals = {
        (name, ratio.slower, ratio.faster): ratio.goal
        for name in ("norm_lif", "train_step")
        for ratio in find_case(name).prepare(QUICK).ratios
        if ratio.goal is not None
    }
    assert goals == {
        ("norm_lif", "spikingjelly fp32", "spimm fp32"): 8.0,
        ("train_step", "spikingjelly fp32", "spimm fp32"): 1.8,
        ("train_step", "spikingjelly fp32", "spimm bf16"): 4.0,
    }


def test_a_case_that_fails_its_check_is_not_measured(no_new_cases: None) -> None:
    measured: list[str] = []

    @register_case("broken", "never right")
    def broken(options: Options) -> Plan:
        def check() -> dict[str, float]:
            raise Mismatch("they differ")

        def sample() -> float:
            measured.append("once")
            return 1.0

        return Plan(setting={}, check=check, sides={"a": sample})

    with pytest.raises(Mismatch, match="they differ"):
        run_case("broken")
    assert measured == []


def test_a_kernel_with_one_wrong_spike_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.norm_neuron

    def one_wrong(x, norm, neuron):
        spikes = right(x, norm, neuron)
        flipped = spikes.detach().clone()
        flipped[0, 0, 0, 0, 0] = 1 - flipped[0, 0, 0, 0, 0]
        return spikes + (flipped - spikes).detach()

    monkeypatch.setattr(kernels, "norm_neuron", one_wrong)
    with pytest.raises(Mismatch, match="spimm fp32: 1 of 240 spikes differ"):
        run_case("norm_lif", Options(peers=False, quick=True))


def test_a_kernel_with_a_wrong_gradient_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.norm_neuron
    monkeypatch.setattr(
        kernels, "norm_neuron", lambda x, norm, neuron: right(x * 1.0 + 0.01 * (x - x.detach()), norm, neuron)
    )
    with pytest.raises(Mismatch, match="spimm fp32: gradient of x"):
        run_case("norm_lif", Options(peers=False, quick=True))


def test_one_function_adds_a_case_and_its_ratios_are_summed_up_by_the_runner(no_new_cases: None) -> None:
    @register_case("doubled", "twice as slow")
    def doubled(options: Options) -> Plan:
        slow, fast = iter([9.0, 2.0, 4.0, 6.0]), iter([9.0, 1.0, 2.0, 3.0])
        return Plan(
            setting={"n": 1},
            check=lambda: {"difference": 0.0},
            sides={"slow": lambda: next(slow), "fast": lambda: next(fast)},
            ratios=[Ratio("slow", "fast", goal=2.0)],
            repeats=3,
        )

    record = run_case("doubled")
    assert record.sides["slow"].samples == (2.0, 4.0, 6.0)
    (item,) = record.comparisons
    assert (item.ratio.median, item.goal, item.met) == (2.0, 2.0, True)
    with pytest.raises(ValueError, match="'doubled' is registered already"):
        register_case("doubled", "again")(doubled)


def test_unknown_names_and_impossible_plans_are_errors() -> None:
    with pytest.raises(ValueError, match=r"unknown case 'norm_lf'; did you mean norm_lif\?"):
        find_case("norm_lf")
    with pytest.raises(ValueError, match="names the side 'b'; the sides are a"):
        Plan(setting={}, check=dict, sides={"a": lambda: 1.0}, ratios=[Ratio("a", "b")])
    with pytest.raises(ValueError, match="repeats 0"):
        Plan(setting={}, check=dict, sides={"a": lambda: 1.0}, repeats=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_of_resident_memory_remembers_what_was_freed_and_can_be_forgotten() -> None:
    forget_peak()
    before, _ = resident()
    with mmap.mmap(-1, 64 * 2**20) as block:  # malloc could hand out memory that is resident already
        for offset in range(0, len(block), 4096):
            block[offset] = 1
    now, peak = resident()
    assert peak - before > 60
    assert now - before < 30
    forget_peak()
    assert resident()[1] - before < 30


def test_a_measuring_process_that_fails_is_an_error_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spimm.bench.memory._CHILD", "raise SystemExit('no memory left')")
    with pytest.raises(RuntimeError, match="spimm bf16 failed:\nno memory left"):
        in_fresh_process("spimm", "bf16", True)()
