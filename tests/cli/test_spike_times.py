"""`spimm eval` on networks of spike times by the clock and spike by spike, on a small one with random weights."""

import json
from typing import Any

import pytest
import torch

from spimm.cli.main import main

SMALL = ("--model", "ttfs_mnist_cnn", "--options", "convs=2,M,3,M", "hidden=16,12")


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


def metrics_of(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    torch.manual_seed(0)
    assert main(["eval", *SMALL, *options, "--as-json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_spike_by_spike_a_network_is_as_good_as_in_closed_form(capsys: pytest.CaptureFixture[str]) -> None:
    plain, events = metrics_of((), capsys), metrics_of(("--event-driven",), capsys)
    assert events["top1"] == plain["top1"]
    assert events["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert list(events["operations"]) == ["stages.0.1", "stages.1.0", "hidden.0", "hidden.1", "head"]
    assert 0 < events["operations"]["hidden.1"] <= 16 * 12
    assert "operations" not in plain


def test_the_operations_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *SMALL, "--event-driven"]) == 0
    assert "synaptic operations an image: stages.0.1 " in capsys.readouterr().out


def test_in_short_steps_a_network_comes_near_the_closed_form(capsys: pytest.CaptureFixture[str]) -> None:
    loss = metrics_of((), capsys)["loss"]
    for threshold in ("exact", "shifted"):
        errors = []
        for dt in ("0.5", "0.01"):
            stepped = metrics_of(("--stepwise", dt, "--threshold", threshold), capsys)
            errors.append(abs(stepped["loss"] - loss))
        assert 0 < errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stepwise", "0.3"), "the nearest that do are 0.333333 and 0.25"),
        (("--stepwise", "0.5", "--event-driven"), "give either --stepwise or --event-driven, got both"),
        (("--event-driven", "--precision", "bf16"), "compute in fp32, got --precision bf16"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *SMALL, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_spike_times_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--model", "qkformer_3_64_digits", "--event-driven"]) == 2
    assert "has 0 input codes, 0 units" in capsys.readouterr().err
