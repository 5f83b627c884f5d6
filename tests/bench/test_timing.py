"""Turns, summaries and what is switched off while the clock runs."""

import gc

import pytest
import torch

from spimm.bench.timing import Summary, fixed_threads, no_collection, pairwise, stopwatch, take_turns


def test_sides_are_measured_turn_by_turn_and_warm_up_rounds_are_thrown_away() -> None:
    calls: list[str] = []

    def side(name: str):
        def sample() -> float:
            calls.append(name)
            return len(calls)

        return sample

    rounds: list[int] = []
    samples = take_turns({"a": side("a"), "b": side("b")}, warmup=1, repeats=2, on_round=rounds.append)
    assert calls == ["a", "b"] * 3
    assert samples == {"a": [3, 5], "b": [4, 6]}
    assert rounds == [0, 1]


def test_the_garbage_collector_is_off_while_measuring_and_on_again_after_an_error() -> None:
    states: list[bool] = []

    def sample() -> float:
        states.append(gc.isenabled())
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        take_turns({"a": sample}, warmup=0, repeats=1)
    assert states == [False]
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_summary_has_median_quartiles_and_extremes_and_keeps_the_order_of_the_samples() -> None:
    summary = Summary.of([5.0, 1.0, 4.0, 2.0, 3.0])
    assert summary == Summary((5.0, 1.0, 4.0, 2.0, 3.0), median=3.0, min=1.0, q1=2.0, q3=4.0, max=5.0)
    assert Summary.of([7.0]) == Summary((7.0,), 7.0, 7.0, 7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="no samples"):
        Summary.of([])


def test_ratios_are_taken_round_by_round() -> None:
    # A slow second round hits both sides: the ratio of medians would be the same, that of the rounds shows no spread.
    assert pairwise([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError):
        pairwise([1.0], [1.0, 2.0])


def test_a_stopwatch_runs_the_work_once_and_gives_milliseconds() -> None:
    calls: list[None] = []
    assert stopwatch(lambda: calls.append(None))() > 0
    assert len(calls) == 1


def test_the_number_of_threads_holds_within_the_context_only() -> None:
    with fixed_threads(2) as count:
        assert count == torch.get_num_threads() == 2
    with fixed_threads(None) as count:
        assert count == torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1
    with pytest.raises(ValueError, match="threads is 0"), fixed_threads(0):
        pass
