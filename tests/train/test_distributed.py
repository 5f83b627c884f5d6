"""Several processes against one: the same batches, shared, give the same training."""

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from spimm.data import ImageData, load_data
from spimm.train import NonFiniteLoss, RankLost, Recipe, load_run, load_weights, read_checkpoint, read_log, train

from .conftest import TinyNet
from .families import TINY, tiny_model
from .ranks import answers, on_ranks

Make = Callable[[int], nn.Module]
TIMING = {"time", "images_per_second", "eval_seconds"}
SHARDS = {"parallel": "fsdp"}


class Sure(TinyNet):
    """TinyNet in float64, so that Adam makes nothing of rounding, and without dropout, which ranks draw apart."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(torch.relu(self.norm(self.conv(images.double()))).mean((2, 3)))
        self.training_steps += self.training
        if self._fail is not None and self.training and self.training_steps == self._fail_at:
            return self._fail(logits)
        return logits


def sure(rank: int) -> nn.Module:
    return Sure()


def kill_at(step: int, number: int, victim: int, kind: type[TinyNet] = Sure) -> Make:
    """Networks of which that of rank `victim` sends its process a signal in the middle of its step `step`."""

    def send(logits: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return logits

    return lambda rank: kind(fail_at=step, fail=send) if rank == victim else kind()


@pytest.fixture
def shared(recipe: Recipe) -> Recipe:
    """Two epochs of five steps, each step of 8 images on all ranks, mixed and cut."""
    return replace(recipe, epochs=2, warmup_epochs=0, lr=0.05, optimizer="sgd", sync_norm=True, mixup=0.5, cutmix=0.5)


@pytest.fixture(scope="module")
def few_digits() -> ImageData:
    digits = load_data("digits")
    return replace(digits, train=digits.train.subset(range(40)), test=digits.test.subset(range(21)))


def run(recipe: Recipe, out: Path, data: ImageData, model: nn.Module, **options: Any) -> tuple[bool, int]:
    result = train(recipe, out, data=data, model=model, console=Console(file=StringIO()), **options)
    return result.completed, result.step


def together(recipe: Recipe, out: Path, data: ImageData, make: Make, ranks: int = 2) -> list[tuple[bool, int]]:
    """The run on several ranks, each with the model that `make` gives it."""
    return on_ranks(ranks, out.parent / "meetings", lambda rank: run(recipe, out, data, make(rank)))


def numbers(out: Path) -> list[dict[str, Any]]:
    """Steps and epochs of the log without what a clock decides."""
    records = [record for record in read_log(out / "log.jsonl") if record["kind"] in ("step", "epoch")]
    return [{key: value for key, value in record.items() if key not in (*TIMING, "kind")} for record in records]


def weights(out: Path, make: Make, which: str = "last") -> dict[str, Tensor]:
    model = make(0)
    load_weights(model, out / "checkpoints" / which)
    return model.state_dict()


def assert_near(first: Path, second: Path, make: Make, tolerance: float) -> None:
    """The same losses, accuracies and weights, these to `tolerance` of each tensor's largest value."""
    ours, theirs = numbers(first), numbers(second)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=10 * tolerance, abs=10 * tolerance)
    for which in ("last", "best"):
        found = weights(first, make, which)
        for name, wanted in weights(second, make, which).items():
            atol = tolerance * max(wanted.abs().max().item(), 1e-3)
            torch.testing.assert_close(found[name], wanted, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("family", "parallel"), [*((family, "ddp") for family in TINY), ("qkformer", "fsdp"), ("metaspikeformer", "fsdp")]
)
def test_two_processes_train_as_one_does_with_all_images(
    family: str, parallel: str, recipe: Recipe, few_digits: ImageData, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {"model": TINY[family][0], "epochs": 1, "warmup_epochs": 0, "lr": 1e-3}
    recipe = replace(recipe, **settings, sync_norm=True, mixup=0.5)
    make: Make = lambda rank: tiny_model(family)  # noqa: E731
    run(recipe, one, few_digits, make(0))
    recipe = replace(recipe, parallel=parallel)
    assert together(recipe, two, few_digits, make) == [(True, 5)] * 2
    assert_near(two, one, make, 1e-6)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_parts_that_are_computed_again_in_the_backward_pass_keep_the_equality(
    parallel: str, shared: Recipe, few_digits: ImageData, tmp_path: Path
) -> None:
    def make(rank: int) -> nn.Module:
        return tiny_model("resnet", checkpoint=True, memory="packed")

    recipe = replace(shared, epochs=1)
    run(recipe, tmp_path / "one", few_digits, tiny_model("resnet"))
    together(replace(recipe, parallel=parallel), tmp_path / "two", few_digits, make)
    assert_near(tmp_path / "two", tmp_path / "one", make, 1e-6)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_price_on_firing_rates_is_that_of_the_images_of_all_ranks(
    parallel: str, shared: Recipe, few_digits: ImageData, tmp_path: Path
) -> None:
    make: Make = lambda rank: tiny_model("metaspikeformer")  # noqa: E731
    recipe = replace(shared, epochs=1, rate_weight=100.0, rate_upper=0.1, rate_lower=0.05)
    run(recipe, tmp_path / "one", few_digits, make(0))
    together(replace(recipe, parallel=parallel), tmp_path / "two", few_digits, make)
    assert_near(tmp_path / "two", tmp_path / "one", make, 1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"ema_decay": 0.9, "optimizer": "adamw"},
        {"batch_parts": 4},
        {"optimizer": "lamb", "ema_decay": 0.9, **SHARDS},
        {"mean_share": 0.1, "batch_parts": 2, **SHARDS},
    ],
    ids=str,
)
def test_settings_keep_the_equality(settings: dict[str, Any], shared: Recipe, data: ImageData, tmp_path: Path) -> None:
    recipe = replace(shared, **settings)
    run(replace(recipe, parallel="ddp"), tmp_path / "one", data, Sure())
    together(recipe, tmp_path / "two", data, sure)
    assert_near(tmp_path / "two", tmp_path / "one", sure, 1e-6)


@pytest.mark.parametrize(("ranks", "settings"), [(1, {"accumulate": 4}), (2, {"accumulate": 2}), (4, {})])
def test_a_batch_in_pieces_one_after_the_other_or_on_ranks_is_a_batch(
    ranks: int, settings: dict[str, int], shared: Recipe, data: ImageData, tmp_path: Path
) -> None:
    def make(rank: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))

    run(shared, tmp_path / "whole", data, make(0))
    together(replace(shared, **settings), tmp_path / "pieces", data, make, ranks)
    assert_near(tmp_path / "pieces", tmp_path / "whole", make, 1e-5)


def test_without_shared_statistics_ranks_keep_the_mean_of_their_running_ones(
    shared: Recipe, data: ImageData, tmp_path: Path
) -> None:
    models: dict[int, nn.Module] = {}

    def work(rank: int) -> dict[str, list[float]]:
        models[rank] = Sure()
        run(replace(shared, sync_norm=False), tmp_path / "two", data, models[rank])
        return {name: tensor.tolist() for name, tensor in models[rank].state_dict().items()}

    first, second = on_ranks(2, tmp_path / "meetings", work)
    assert first == second
    run(shared, tmp_path / "one", data, Sure())
    apart = weights(tmp_path / "one", sure)
    mean, variance = (torch.tensor(first[f"norm.running_{name}"]).double() for name in ("mean", "var"))
    assert not torch.equal(variance, apart["norm.running_var"])
    torch.testing.assert_close(mean, apart["norm.running_mean"], atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("before", "after", "parallel"), [(2, 1, "ddp"), (1, 2, "ddp"), (2, 1, "fsdp"), (1, 2, "fsdp")]
)
def test_a_run_stopped_on_one_rank_stops_on_all_and_goes_on_with_another_number_of_them(
    before: int, after: int, parallel: str, shared: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(shared, parallel=parallel, ema_decay=0.9)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(replace(recipe, parallel="ddp"), whole, data, Sure())
    stopping = kill_at(7, signal.SIGTERM, victim=before - 1)
    assert together(recipe, parts, data, stopping, before) == [(False, 7)] * before
    assert read_log(parts / "log.jsonl")[-1]["reason"] == "SIGTERM"
    assert together(recipe, parts, data, sure, after) == [(True, 10)] * after
    assert_near(parts, whole, sure, 1e-6)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_on_the_same_number_of_ranks_a_stopped_run_goes_on_bit_for_bit_with_dropout(
    parallel: str, shared: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(shared, parallel=parallel, optimizer="adamw", sync_norm=False)
    plain: Make = lambda rank: TinyNet()  # noqa: E731
    together(recipe, tmp_path / "whole", data, plain)
    together(recipe, tmp_path / "parts", data, kill_at(4, signal.SIGINT, 1, TinyNet))
    together(recipe, tmp_path / "parts", data, plain)
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    ours, theirs = (weights(tmp_path / name, plain) for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ranks_draw_dropout_apart(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    drawn: list[float] = []

    def make(rank: int) -> nn.Module:
        model = TinyNet()
        model.register_forward_hook(lambda *_: drawn.append(torch.rand(()).item()))
        return model

    def work(rank: int) -> list[float]:
        run(replace(recipe, epochs=1), tmp_path / "run", data, make(rank))
        return drawn

    first, second = on_ranks(2, tmp_path / "meetings", work)
    assert not set(first) & set(second)


def test_a_loss_that_is_not_finite_on_one_rank_ends_the_run_on_all(
    shared: Recipe, data: ImageData, tmp_path: Path
) -> None:
    def work(rank: int) -> None:
        run(shared, tmp_path / "run", data, Sure(fail_at=7, fail=lambda logits: logits * (math.nan if rank else 1)))

    for error in answers(2, tmp_path / "meetings", work):
        assert isinstance(error, NonFiniteLoss)
        assert "at epoch 2, step 7, lr" in str(error)
        assert f"the last good checkpoint is {tmp_path / 'run' / 'checkpoints' / 'last'}" in str(error)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_killed_rank_ends_the_others_with_an_error_and_the_last_checkpoint_goes_on(
    parallel: str, shared: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe, out = replace(shared, parallel=parallel, checkpoint_every=3, rank_timeout=20), tmp_path / "run"
    killing = kill_at(8, signal.SIGKILL, victim=1)
    survivor, victim = answers(2, tmp_path / "meetings", lambda rank: run(recipe, out, data, killing(rank)))
    assert victim is None
    assert isinstance(survivor, RankLost)
    last = out / "checkpoints" / "last"
    assert f"rank 0 of 2 lost another rank, which ended or did not answer; the last good checkpoint is {last}" in str(
        survivor
    )
    assert read_checkpoint(last).state["step"] == 6
    assert together(recipe, out, data, sure) == [(True, 10)] * 2
    run(replace(recipe, parallel="ddp"), tmp_path / "whole", data, Sure())
    assert_near(out, tmp_path / "whole", sure, 1e-6)


def test_a_batch_that_does_not_divide_is_refused(shared: Recipe, data: ImageData, tmp_path: Path) -> None:
    recipe = replace(shared, batch_size=12, accumulate=4)
    for error in answers(2, tmp_path, lambda rank: run(recipe, tmp_path / "run", data, Sure())):
        assert isinstance(error, ValueError)
        assert "batch_size must be a multiple of ranks x accumulate = 2 x 4, got 12" in str(error)
    with pytest.raises(ValueError, match=r"parallel must be ddp for one process, got 'fsdp'"):
        run(replace(shared, **SHARDS), tmp_path / "run", data, Sure())


def test_a_run_in_a_folder_that_only_one_rank_sees_is_refused(shared: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(shared, tmp_path / "0", data, Sure())
    for error in answers(2, tmp_path / "meetings", lambda rank: run(shared, tmp_path / str(rank), data, Sure())):
        assert type(error) is RuntimeError
        assert "out_dir must be one folder that all machines see" in str(error)


def test_a_run_in_shards_loads_back_as_one_model(recipe: Recipe, few_digits: ImageData, tmp_path: Path) -> None:
    options = {"embed_dim": 16, "num_heads": 2, "num_steps": 2}
    recipe = replace(recipe, model="qkformer_3_64_digits", model_options=options, epochs=1, warmup_epochs=0, **SHARDS)
    console = Console(file=StringIO())
    on_ranks(
        2, tmp_path / "meetings", lambda rank: train(recipe, tmp_path / "run", data=few_digits, console=console).step
    )
    best, last = (load_run(tmp_path / "run", which=which)[1].state_dict() for which in ("best", "last"))
    assert all(torch.equal(best[name], last[name]) for name in best)
    folder = tmp_path / "run" / "checkpoints"
    assert (folder / "best" / "model.safetensors").is_file()
    assert not (folder / "last" / "model.safetensors").exists()


def test_a_damaged_shard_is_found(shared: Recipe, data: ImageData, tmp_path: Path) -> None:
    recipe, out = replace(shared, **SHARDS), tmp_path / "run"
    together(recipe, out, data, kill_at(4, signal.SIGINT, 0))
    shard = sorted((out / "checkpoints" / "last" / "shards").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    for error in answers(2, tmp_path / "meetings", lambda rank: run(recipe, out, data, Sure())):
        assert f"{shard} is cut short" in str(error)


def test_the_loaders_shares_add_up_on_any_number_of_ranks(shared: Recipe, data: ImageData) -> None:
    from spimm.train import Ranks, build_loader

    for parts in (1, 2, 8):
        recipe = replace(shared, batch_parts=parts)
        whole = list(build_loader(recipe, data, train=True).iterate(1))
        for size in (2, 4, 8):
            ranks = (Ranks(rank, size) for rank in range(size))
            loaders = [build_loader(recipe, data, train=True, ranks=member) for member in ranks]
            for (images, labels), *shares in zip(whole, *(loader.iterate(1) for loader in loaders), strict=True):
                assert torch.equal(torch.cat([part for part, _ in shares]), images)
                assert torch.equal(torch.cat([part for _, part in shares]), labels)
                assert shares[0][0].is_contiguous(memory_format=torch.channels_last)
