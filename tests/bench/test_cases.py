"""Every case runs, checks before it measures, and gives a full record."""

import importlib.util
import mmap
import sys
from collections.abc import Iterator

import pytest

from spimm.bench import (
    Mismatch,
    Options,
    Plan,
    Ratio,
    Series,
    Sweep,
    Work,
    find_case,
    kernels,
    list_cases,
    register_case,
    registry,
    run_case,
    scaling_attention,
    spk,
)
from spimm.bench.environment import PEERS
from spimm.bench.fresh import Trained, in_fresh_process
from spimm.kernels.resident import forget_peak, resident
from spimm.layers import SDSA

QUICK = Options(quick=True)
GOALS = {
    ("norm_lif", "spikingjelly fp32", "spimm fp32"): 12.0,
    ("norm_lif", "spikingjelly bf16", "spimm bf16"): 12.0,
    ("lif", "spikingjelly fp32", "spimm fp32"): 8.0,
    ("lif", "snntorch fp32", "spimm fp32"): 10.0,
    ("lif", "norse fp32", "spimm fp32"): 10.0,
    ("lif", "torch.compile fp32", "spimm fp32"): 1.5,
    **{
        (case, slower, f"spimm mbpl {precision}"): goal
        for case in ("mbpl", "mbpl_t1")
        for precision in ("fp32", "bf16")
        for slower, goal in ((f"spimm sl {precision}", 1 / 1.6), (f"spikingjelly {precision}", 8.0))
    },
    ("train_step", "spikingjelly fp32", "spimm fp32"): 2.0,
    ("train_step", "spikingjelly fp32", "spimm bf16"): 7.0,
    ("train_step", "spikingjelly bf16", "spimm bf16"): 3.5,
    ("inference", "spikingjelly fp32", "spimm fp32"): 2.5,
    ("inference", "spikingjelly fp32", "spimm folded bf16"): 10.0,
    ("meta_train_step", "spikingjelly fp32", "spimm bf16"): 5.0,
    ("meta_inference", "spikingjelly fp32", "spimm folded bf16"): 8.0,
    ("meta_train_step_224", "spikingjelly fp32 T=4", "spimm bf16 T=4"): 5.0,
    ("meta_train_step_224", "spikingjelly fp32 T=1", "spimm bf16 T=1"): 5.0,
    ("meta_inference_224", "spikingjelly fp32 T=4", "spimm folded bf16 T=4"): 8.0,
    ("meta_inference_224", "spikingjelly fp32 T=1", "spimm folded bf16 T=1"): 8.0,
    ("event_reading", "spikingjelly dvs-gesture", "spimm dvs-gesture"): 5.0,
    ("event_framing", "spikingjelly n-mnist time", "spimm n-mnist time"): 5.0,
    ("event_framing", "spikingjelly n-mnist count", "spimm n-mnist count"): 5.0,
    ("event_framing", "spikingjelly dvs-gesture time", "spimm dvs-gesture time"): 5.0,
    ("first_step", "spimm fp32 steady step", "spimm fp32 first step"): 1 / 1.5,
    ("first_step", "spimm bf16 steady step", "spimm bf16 first step"): 1 / 1.5,
}


@pytest.fixture
def no_new_cases() -> Iterator[None]:
    before = dict(registry._cases)
    yield
    registry._cases.clear()
    registry._cases.update(before)


@pytest.mark.parametrize("name", [case.name for case in list_cases()])
def test_a_quick_run_of_every_case_gives_a_full_record(name: str) -> None:
    for library in ("spikingjelly", "snntorch"):
        pytest.importorskip(library)
    record = run_case(name, QUICK, threads=1, command=f"spimm bench {name} --quick")
    assert any(side.startswith("spimm") for side in record.sides)
    assert all(summary.min > 0 and len(summary.samples) == record.repeats for summary in record.sides.values())
    assert record.comparisons or record.curves
    assert record.checks
    assert record.setting
    assert record.hardware["cpu"] and record.hardware["cores"] and record.hardware["spimm_isa"]
    assert record.versions.keys() == {"spimm", "torch", "python", *PEERS} and record.versions["spikingjelly"]
    assert (record.case, record.quick, record.threads, record.command) == (name, True, 1, f"spimm bench {name} --quick")
    limits = {rate.limit for rate in record.rates}
    assert limits <= record.sides.keys()
    assert all(rate.share.median == 1 for rate in record.rates if rate.side in limits)


@pytest.mark.parametrize(
    "name",
    [
        "norm_lif",
        "lif",
        "token_mask",
        "mbpl",
        "train_step",
        "inference",
        "scaling_width",
        "meta_inference",
        "spikeatconv_inference",
    ],
)
def test_without_peers_ours_alone_is_checked_and_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("spikingjelly.activation_based", "snntorch", "norse"):
        monkeypatch.setitem(sys.modules, library, None)
    record = run_case(name, Options(peers=False, quick=True))
    assert {side.split()[0] for side in record.sides} <= {"spimm", "copy", "matmul"}
    assert record.checks
    assert {item.slower.split()[0] for item in record.comparisons} <= {"spimm"}
    assert {record.versions[peer] for peer in PEERS} == {None}


@pytest.mark.parametrize("name", sorted({case for case, _, _ in GOALS}))
def test_goals_stand_where_the_full_size_is_run(name: str) -> None:
    for library in ("spikingjelly", "snntorch"):
        pytest.importorskip(library)
    ratios = find_case(name).prepare(QUICK).ratios
    goals = {(name, ratio.slower, ratio.faster): ratio.goal for ratio in ratios if ratio.goal is not None}
    wanted = {key: goal for key, goal in GOALS.items() if key[0] == name}
    if importlib.util.find_spec("norse") is None:
        wanted.pop(("lif", "norse fp32", "spimm fp32"), None)
    assert goals == wanted


def test_every_goal_of_memory_is_a_share_of_the_peers_turned_over() -> None:
    pytest.importorskip("spikingjelly")
    goals = {(ratio.slower, ratio.faster): ratio.goal for ratio in find_case("memory").prepare(QUICK).ratios}
    assert goals == {
        ("spikingjelly bf16", "spimm packed bf16"): pytest.approx(1 / 0.35),
        ("spikingjelly memopt bf16", "spimm packed checkpoint bf16"): pytest.approx(1 / 0.7),
        ("spikingjelly memopt bf16", "spimm packed bf16"): None,
    }


def test_a_peer_that_may_be_missing_is_named_in_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("spikingjelly", "snntorch"):
        pytest.importorskip(library)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plan = find_case("lif").prepare(QUICK)
    assert "norse fp32" not in plan.sides
    assert "pip install norse" in plan.setting["norse"]


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


@pytest.mark.parametrize("thresholds", [(0.2, 1.0), (0.3, 1.0, 2.0, 4.0)])
def test_a_block_of_other_thresholds_is_not_measured(
    thresholds: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = spk.MultiLIF
    monkeypatch.setattr(spk, "MultiLIF", lambda neuron, _: right(neuron, thresholds))
    with pytest.raises(Mismatch, match=r"spimm mbpl fp32: \d+ of 120 spikes differ"):
        run_case("mbpl_t1", Options(peers=False, quick=True))


@pytest.mark.parametrize("kind", SDSA)
def test_an_attention_that_is_not_what_the_paper_writes_is_not_measured(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = scaling_attention.DRIVES[kind]
    plan = find_case("scaling_attention").prepare(QUICK)
    monkeypatch.setitem(scaling_attention.DRIVES, kind, lambda q, k, v: right(q, k, v) / 4)
    with pytest.raises(Mismatch, match=f"spikes of {kind}"):
        plan.check()


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
    with pytest.raises(ValueError, match=r"unknown case 'norm_lf'; did you mean norm_lif"):
        find_case("norm_lf")
    with pytest.raises(ValueError, match="names the side 'b'; the sides are a"):
        Plan(setting={}, check=dict, sides={"a": lambda: 1.0}, ratios=[Ratio("a", "b")])
    with pytest.raises(ValueError, match="repeats 0"):
        Plan(setting={}, check=dict, sides={"a": lambda: 1.0}, repeats=0)
    with pytest.raises(ValueError, match="a piece of work names the side 'copy'; the sides are a"):
        Plan(setting={}, check=dict, sides={"a": lambda: 1.0}, work={"a": Work(1.0, "B", "copy")})
    with pytest.raises(ValueError, match="a series names the side 'b'; the sides are a"):
        Plan(setting={}, check=dict, sides={"a": lambda: 1.0}, sweep=Sweep("T", [Series("s", {1: "b"})]))


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


def test_a_process_of_its_own_measures_the_first_step_and_a_steady_one() -> None:
    first, steady = in_fresh_process("first", Trained("spimm", "fp32", quick=True), 2)()
    assert first > 0 and steady > 0


def test_a_measuring_process_that_fails_is_an_error_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spimm.bench.fresh._CHILD", "raise SystemExit('no memory left')")
    with pytest.raises(RuntimeError, match="spimm bf16 failed:\nno memory left"):
        in_fresh_process("peak", Trained("spimm", "bf16", quick=True), 1)()
