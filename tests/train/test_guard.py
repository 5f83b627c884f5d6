import json
import math
import signal
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from spimm.data import ImageData
from spimm.train import NonFiniteLoss, Recipe, TrainResult, read_checkpoint, read_log, train
from spimm.train.guard import LEAST, PATIENCE, GuardState, SpikeGuard
from spimm.train.typed import from_json

from .conftest import TinyNet, signal_at
from .test_resume import assert_same, assert_same_run, progress


class Spiking(TinyNet):
    """The tiny network whose features, at the training steps `at`, are multiplied before its norm sees them."""

    def __init__(self, at: set[int], factor: float) -> None:
        super().__init__()
        self.at, self.factor, self.done = at, factor, 0
        self.conv.register_forward_hook(self._disturb)
        self.head.register_forward_hook(self._scale)

    def _hit(self) -> bool:
        return self.training and self.done + self.training_steps + 1 in self.at

    def _disturb(self, module: object, inputs: object, output: Tensor) -> Tensor | None:
        return output * self.factor if self._hit() else None

    def _scale(self, module: object, inputs: object, output: Tensor) -> Tensor | None:
        return output * self.factor if self._hit() else None


@pytest.fixture
def guarded(recipe: Recipe) -> Recipe:
    """Six epochs of five steps, with the guard."""
    return replace(recipe, epochs=6, spike_guard=20.0)


def run(recipe: Recipe, out: Path, data: ImageData, model: TinyNet | None = None) -> TrainResult:
    return train(recipe, out, data=data, model=model or TinyNet(), console=Console(file=StringIO()))


def skipped(out: Path) -> list[int]:
    return [record["step"] for record in read_log(out / "log.jsonl") if record["kind"] == "skipped"]


def test_the_guard_tells_what_is_far_above_the_median_or_not_finite_and_forgets_it() -> None:
    guard = SpikeGuard(3.0)
    assert not any(guard.refuses(2.0, 1.0) for _ in range(LEAST))
    steps = ((5.9, 2.9), (6.1, 1.0), (2.0, 3.1), (math.nan, 1.0), (2.0, math.inf))
    assert [guard.refuses(*step) for step in steps] == [False, True, True, True, True]
    assert guard.skipped_in_a_row == guard.skipped_in_epoch == 4
    assert not guard.refuses(2.0, 1.0)
    assert (guard.skipped_in_a_row, guard.end_epoch(), guard.skipped_in_epoch) == (0, 4, 0)


def test_a_finite_loss_is_never_told_before_there_is_a_median_to_speak_of() -> None:
    guard = SpikeGuard(2.0)
    assert not any(guard.refuses(10.0**step, 1.0) for step in range(LEAST))


def test_a_guard_that_goes_on_from_its_state_tells_as_one_that_did_not_stop() -> None:
    one, other = SpikeGuard(2.0), SpikeGuard(2.0)
    steps = (torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) ** 4).tolist()
    told = [one.refuses(*step) for step in steps]
    before = [other.refuses(*step) for step in steps[:90]]
    third = SpikeGuard(2.0)
    third.restore(from_json(GuardState, json.loads(json.dumps(asdict(other.state()))), "state"))
    assert before + [third.refuses(*step) for step in steps[90:]] == told
    assert len(set(told)) == 2


@pytest.mark.parametrize("factor", [1e6, math.nan, math.inf])
def test_a_step_that_spikes_is_left_out_and_moves_neither_weights_nor_statistics(
    factor: float, guarded: Recipe, data: ImageData, tmp_path: Path
) -> None:
    model, states = Spiking({20}, factor), []
    model.register_forward_pre_hook(
        lambda *_: (
            states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            if model.training
            else None
        )
    )
    result = run(guarded, tmp_path, data, model)
    assert skipped(tmp_path) == [20]
    assert result.completed and result.step == 30
    before, after, later = states[19], states[20], states[21]
    assert_same(before, after)
    assert not torch.equal(after["conv.weight"], later["conv.weight"])
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    epochs = [record for record in progress(tmp_path) if "train_loss" in record]
    steps = [record["loss"] for record in progress(tmp_path) if record.get("epoch") == 4 and "lr" in record]
    assert len(steps) == 4
    assert epochs[3]["train_loss"] == pytest.approx(sum(steps) / 4)


def test_a_run_with_left_out_steps_stopped_and_resumed_equals_one_that_was_not(
    guarded: Recipe, data: ImageData, tmp_path: Path
) -> None:
    guarded = replace(guarded, ema_decay=0.9)
    spikes = {18, 23, 24, 28}
    run(guarded, tmp_path / "whole", data, Spiking(spikes, 1e6))
    stopping, steps = Spiking(spikes, 1e6), []

    def stop(module: Spiking, inputs: object) -> None:
        steps.append(module.training)
        if module.training and sum(steps) == 23:
            signal.raise_signal(signal.SIGINT)

    stopping.register_forward_pre_hook(stop)
    assert run(guarded, tmp_path / "parts", data, stopping).step == 23
    rest = Spiking(spikes, 1e6)
    rest.done = 23
    assert run(guarded, tmp_path / "parts", data, rest).completed
    assert skipped(tmp_path / "whole") == skipped(tmp_path / "parts") == sorted(spikes)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("factor", [1e6, math.nan])
def test_too_many_left_out_in_a_row_end_the_run(
    factor: float, guarded: Recipe, data: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(
        NonFiniteLoss, match=rf"^{PATIENCE} steps left out in a row: .* at epoch 6, step 27, .*last$"[:-1]
    ):
        run(guarded, tmp_path, data, Spiking(set(range(18, 31)), factor))
    assert skipped(tmp_path) == list(range(18, 18 + PATIENCE - 1))
    assert read_checkpoint(tmp_path / "checkpoints" / "last").state["step"] == 25


def test_a_guard_that_has_nothing_to_tell_changes_nothing(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(replace(recipe, spike_guard=1e9), tmp_path / "on", data)
    run(recipe, tmp_path / "off", data)
    one, other = (read_checkpoint(tmp_path / name / "checkpoints" / "last") for name in ("on", "off"))
    assert_same(one.model, other.model)
    assert progress(tmp_path / "on") == progress(tmp_path / "off")


@pytest.mark.parametrize("value", [1.0, 0.5, -1.0, math.inf, math.nan])
def test_a_factor_that_would_leave_out_usual_steps_is_refused(value: float, recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"^spike_guard must be 0 \(off\), or more than 1 and finite, got"):
        replace(recipe, spike_guard=value)


def test_a_run_is_not_resumed_with_another_guard(guarded: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(guarded, tmp_path, data, signal_at(4, signal.SIGINT))
    with pytest.raises(ValueError, match=r"another recipe: spike_guard was 20.0, now 0.0"):
        run(replace(guarded, spike_guard=0.0), tmp_path, data)
