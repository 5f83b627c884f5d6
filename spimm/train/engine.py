"""The training loop: one `Trainer` takes a model through a recipe, and can stop and go on at any step, bit for bit.

On several ranks each runs a Trainer: they take the same steps, decide alike, and rank 0 writes.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from spimm.layers import quantised, sync_norms
from spimm.tasks import Classify
from spimm.train.broken import check_images
from spimm.train.checkpoint import (
    Checkpoint,
    FolderGone,
    NotWritten,
    last_kept,
    naming_older,
    read_checkpoint,
    write_checkpoint,
)
from spimm.train.config import Recipe
from spimm.train.distributed import Ranks, average_statistics, gradients_stay, replicated, shard
from spimm.train.evaluation import Batches, compute_in, evaluate, pick_device
from spimm.train.guard import PATIENCE, SpikeGuard, copy_buffers, put_back_buffers
from spimm.train.health import HealthWatch
from spimm.train.interrupt import StopRequest
from spimm.train.log import RunLog, environment
from spimm.train.moments import group_steps, laid_out, moments, set_moments
from spimm.train.optim import build_optimizer, learning_rate, set_learning_rate
from spimm.train.rates import RatePenalty
from spimm.train.seeding import deterministic, rng_state, seed_step, set_rng_state
from spimm.train.shards import read_shards, write_shards
from spimm.train.state import RunState, figures, read_state, storable
from spimm.weights import load_state, mark_untrained

# settings that change where and how a run is carried out, not what it computes
FREE_ON_RESUME = (
    "name",
    "device",
    "corrupt",
    "num_workers",
    "checkpoint_every",
    "log_every",
    "tensorboard",
    "rank_timeout",
)


class NonFiniteLoss(RuntimeError):
    """The loss or the norm of its gradient is not finite, or `spike_guard` left out too many steps in a row.

    The weights of the last checkpoint are as they were.
    """


@dataclass(frozen=True)
class TrainResult:
    """How a run ended: `completed` or stopped, epochs and steps done, last and best evaluation, checkpoint folders."""

    completed: bool
    epoch: int
    step: int
    metrics: dict[str, float]
    best: dict[str, float]
    last_checkpoint: Path
    best_checkpoint: Path


class Trainer:
    """Trains `model` on `task` as `recipe` says; everything it writes goes to `<out_dir>/checkpoints` and `log`.

    val_loader: held-out images, which choose the best epoch; without them it is the last one evaluated, since test
    images never choose. ranks: this process among those that train together, whose loaders share the data. corrupt:
    names the corrupt images found so far.
    """

    def __init__(
        self,
        recipe: Recipe,
        out_dir: Path,
        *,
        model: nn.Module,
        task: Classify,
        train_loader: Batches,
        test_loader: Batches,
        val_loader: Batches | None = None,
        log: RunLog,
        ranks: Ranks | None = None,
        corrupt: Callable[[], list[str]] = list,
    ) -> None:
        self.recipe = recipe
        self.ranks = ranks or Ranks()
        self.device = pick_device(recipe.device)
        self.model = model.to(self.device)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if recipe.sync_norm and self.ranks.many:
            self.model = sync_norms(self.model)
        self._sharded = recipe.parallel == "fsdp"
        average = {"decay": recipe.ema_decay, "use_warmup": True, "foreach": not self._sharded}
        self.ema = ModelEmaV3(self.model, **average) if recipe.ema_decay else None
        self._called = self._spread()
        self.optimizer = build_optimizer(self.model, recipe)
        self.last_folder, self.best_folder = out_dir / "checkpoints" / "last", out_dir / "checkpoints" / "best"
        self._guard = SpikeGuard(recipe.spike_guard) if recipe.spike_guard else None
        bounds = recipe.rate_upper, recipe.rate_lower
        self._rates = RatePenalty(recipe.rate_weight, *bounds, ranks=self.ranks) if recipe.rate_weight else None
        self._health: HealthWatch | None = None
        self._corrupt, self._corrupt_told = corrupt, 0
        self._task, self._log = task, log
        self._train_loader, self._test_loader, self._val_loader = train_loader, test_loader, val_loader
        self._steps_per_epoch = len(train_loader)
        if self._steps_per_epoch == 0:
            raise ValueError(f"the training data does not fill one batch of batch_size={recipe.batch_size}")
        self.step = 0  # steps taken
        self._epoch, self._batch = 0, 0  # the next batch to train on
        self._loss_sum = 0.0  # over the batches of this epoch
        self._metrics: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._environment_before: dict[str, Any] = {}

    def _spread(self) -> nn.Module:
        """Puts the model on all ranks, whole or in shards; what a training step calls in its place."""
        if self._sharded:
            for part in (self.model, *([self.ema.module] if self.ema is not None else [])):
                shard(part)
        return replicated(self.model) if self.ranks.many and not self._sharded else self.model

    def restore(self, folder: Path) -> Path:
        """Takes up the run saved in `folder`, which is returned. ValueError when its recipe or its data's size is
        another, CheckpointError when it is damaged.
        """
        checkpoint = read_checkpoint(folder)
        with naming_older(folder):
            state = read_state(checkpoint.state, folder)
            recipe = Recipe.from_json(state.recipe)
        self._check_same_run(recipe, state, folder)
        with naming_older(folder):
            self._take_up(checkpoint, state, folder)
        return folder

    def _take_up(self, checkpoint: Checkpoint, state: RunState, folder: Path) -> None:
        carried: dict[str, Any] = {"kind": self.recipe.optimizer, "steps": state.group_steps}
        if self._sharded:
            read_shards(folder, **self._parts(), **carried)
        else:
            load_state(self.model, checkpoint.model, str(folder))
            if self.ema is not None:
                load_state(self.ema.module, checkpoint.ema, str(folder))
            stored = checkpoint.optimizer
            carried |= {"stored": stored, "fetch": lambda name, like: laid_out(stored[name], like)}
            set_moments(self.model, self.optimizer, **carried, source=str(folder))
        set_rng_state(state.rng)
        self.step, self._epoch, self._batch = state.step, state.epoch, state.batch
        self._loss_sum, self._metrics, self._best = state.loss_sum, figures(state.metrics), figures(state.best)
        if self._guard is not None and state.guard is not None:
            self._guard.restore(state.guard)
        self._environment_before = state.environment

    def fit(self) -> TrainResult:
        """Trains to the end, or to SIGINT or SIGTERM on any rank: then all finish the step, save and return.

        NonFiniteLoss as soon as the loss or its gradient's norm is not finite.
        """
        recipe, total_epochs = self.recipe, self.recipe.total_epochs
        mark_untrained(self.model, "")
        with self._log, deterministic(), StopRequest() as stop:
            self._log.open(step=self.step, total_steps=total_epochs * self._steps_per_epoch, total_epochs=total_epochs)
            about = {**self._environment(), "recipe": recipe.to_json()}
            self._log.event("resume" if self.step else "start", step=self.step, **about)
            self._tell_environment()
            while self._epoch < total_epochs and not self._stops(stop):
                images_per_second = self._train_epoch(stop)
                if stop.agreed:
                    self._save(self.last_folder, or_end=True)
                else:
                    self._finish_epoch(images_per_second)
            if self._epoch < total_epochs:
                self._log.event("stop", step=self.step, reason=stop.agreed)
                self._log.message(
                    f"stopped by {stop.agreed} after step {self.step}, saved in {self.last_folder}: "
                    "run the same command again to go on from there"
                )
        return TrainResult(
            completed=self._epoch == total_epochs,
            epoch=self._epoch,
            step=self.step,
            metrics=self._metrics,
            best=self._best,
            last_checkpoint=self.last_folder,
            best_checkpoint=self.best_folder,
        )

    def _train_epoch(self, stop: StopRequest) -> float:
        """Steps from `_batch` to the epoch's end, or to a stop request. Returns images per second."""
        self.model.train()
        self._log.restart_clock()
        started, seen, every = time.perf_counter(), 0, self.recipe.checkpoint_every
        for images, labels in self._train_loader.iterate(self._epoch, start_batch=self._batch):
            self._train_step(images, labels, stop)
            seen += len(labels) * self.ranks.world_size
            if stop.agreed:
                break
            if every and self.step % every == 0 and self._batch < self._steps_per_epoch:
                self._save(self.last_folder)
        return seen / (time.perf_counter() - started)

    def _train_step(self, images: Tensor, labels: Tensor, stop: StopRequest) -> None:
        rate = learning_rate(self.recipe, self.step, steps_per_epoch=self._steps_per_epoch)
        set_learning_rate(self.optimizer, rate)
        if self.ranks.many:  # ranks draw apart, and as before on any number of them
            seed_step(self.recipe.seed, self.step, self.ranks.rank)
        self._task.check_labels(labels)
        check_images(images, self._train_loader, self._epoch, self._batch)
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in (images, labels))
        statistics = copy_buffers(self.model) if self._guard is not None else []
        loss = self._gradients(images, labels)
        value, norm = self._over_ranks(loss, self._clip_gradients(), stop)
        if self._guard is not None and self._guard.refuses(value, norm):
            put_back_buffers(self.model, statistics)
            self._leave_out(self._guard, value, norm, rate)
            return
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise NonFiniteLoss(self._describe_failure(value, norm, rate))
        self.optimizer.step()
        average_statistics(self.model, self.ranks)
        self.step += 1
        self._batch += 1
        self._loss_sum += value
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        images_seen = len(labels) * self.ranks.world_size
        self._log.step(step=self.step, images=images_seen, epoch=self._epoch + 1, loss=value, lr=rate, grad_norm=norm)

    def _leave_out(self, guard: SpikeGuard, loss: float, norm: float, rate: float) -> None:
        """Goes on to the next batch with the weights as they are. NonFiniteLoss after too many in a row."""
        if guard.gives_up:
            raise NonFiniteLoss(f"{PATIENCE} steps left out in a row: {self._describe_failure(loss, norm, rate)}")
        self.step += 1
        self._batch += 1
        self._log.event("skipped", step=self.step, reason=guard.describe(loss, norm))

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The task's, and the price of firing rates out of bounds."""
        if self._rates is None:
            return self._task(self._called, images, labels)["loss"]
        with self._rates.watch(self.model):
            loss = self._task(self._called, images, labels)["loss"]
        return loss + self._rates.loss()

    def _gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Fills in the gradients of a step, from all pieces of the batch; the mean loss of this rank's images."""
        pieces = self.recipe.accumulate
        losses = []
        for piece, (some, their_labels) in enumerate(zip(images.chunk(pieces), labels.chunk(pieces), strict=True)):
            with gradients_stay(self._called, local=piece + 1 < pieces), self._quantised(self.model):
                with compute_in(self.recipe.precision, self.device):
                    loss = self._loss(some, their_labels) / pieces
                if piece == 0:
                    self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _over_ranks(self, loss: Tensor, norm: Tensor, stop: StopRequest) -> tuple[float, float]:
        """The mean loss of all ranks, and the norm; whether one was asked to stop becomes known to all."""
        shared = self.ranks.total(torch.stack([loss / self.ranks.world_size, *loss.new_tensor(stop.votes())]))
        value, *votes, size = torch.cat([shared, norm.reshape(1)]).tolist()
        stop.settle(votes)
        return value, size

    def _stops(self, stop: StopRequest) -> bool:
        stop.settle(self.ranks.total(torch.tensor(stop.votes(), device=self.device)).tolist())
        return bool(stop.agreed)

    def _quantised(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within it `model` computes with weights of the recipe's bits."""
        return quantised(model, self.recipe.weight_bits, self.recipe.weight_bits_per)

    def _clip_gradients(self) -> Tensor:
        """The norm of all gradients before they are clipped."""
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.recipe.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip_norm, norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _finish_epoch(self, images_per_second: float) -> None:
        """Evaluates, logs and saves; the state saved is that of the next epoch's start."""
        started = time.perf_counter()
        epoch = self._epoch + 1
        skipped = self._guard.end_epoch() if self._guard is not None else 0
        record: dict[str, float] = {"epoch": epoch, "train_loss": self._loss_sum / max(1, self._batch - skipped)}
        record["images_per_second"] = images_per_second
        evaluated = epoch % self.recipe.eval_every == 0 or epoch == self.recipe.total_epochs
        if evaluated:
            self._metrics = self._evaluate_or_save()
            record |= {**self._metrics, "eval_seconds": time.perf_counter() - started}
        self._log.epoch(step=self.step, **record)
        if evaluated:
            self._look_at_neurons()
        self._tell_corrupt()
        self._epoch, self._batch, self._loss_sum = epoch, 0, 0.0
        score = ("val_" if self._val_loader is not None else "") + ("ema_top1" if self.ema is not None else "top1")
        chosen = self._val_loader is None or self._metrics.get(score, -math.inf) > self._best.get(score, -math.inf)
        improved = evaluated and chosen
        if improved:
            before, self._best = self._best, {"epoch": epoch, **self._metrics}
            if not self._save(self.best_folder):  # before `last`, so that a crash between the two repeats the epoch
                self._best = before
        self._save(self.last_folder, or_end=epoch == self.recipe.total_epochs)

    def _evaluate_or_save(self) -> dict[str, float]:
        """As `_evaluate`; where it fails the epoch is kept, and a run that goes on from there evaluates again."""
        try:
            return self._evaluate()
        except Exception:
            if not self.ranks.many:  # one rank that fails cannot write with the others
                self._save(self.last_folder)
            raise

    def _evaluate(self) -> dict[str, float]:
        """Of the test images, and by names that begin with val_ of held-out ones."""
        metrics = self._evaluate_on(self._test_loader)
        if self._val_loader is not None:
            metrics |= {f"val_{name}": value for name, value in self._evaluate_on(self._val_loader).items()}
        return metrics

    def _evaluate_on(self, loader: Batches) -> dict[str, float]:
        settings: dict[str, Any] = {"precision": self.recipe.precision, "device": self.device, "ranks": self.ranks}
        with self._quantised(self.model):
            metrics = evaluate(self.model, loader, self._task, **settings)
        if self.ema is not None:
            with self._quantised(self.ema.module):
                averaged = evaluate(self.ema.module, loader, self._task, **settings)
            metrics |= {f"ema_{name}": averaged[name] for name in ("loss", "top1", "untied_top1", "top5")}
        return metrics

    def _look_at_neurons(self) -> None:
        """Logs how neurons fire, and names layers that came to fire never or always."""
        self._health = self._health or HealthWatch.of(self._test_loader)
        with self._quantised(self.model), compute_in(self.recipe.precision, self.device):
            seen = self._health.look(self.model, self.device)
        if seen is not None:
            self._log.event("health", step=self.step, **seen.record)
            for sentence in seen.news:
                self._log.message(f"neurons: {sentence}")

    def _tell_environment(self) -> None:
        """Says so where a run goes on under other conditions than before."""
        before, now = self._environment_before, self._environment()
        changed = [name for name in now if before.get(name, now[name]) != now[name]]
        if changed:
            changes = "; ".join(f"{name} was {before[name]}, now {now[name]}" for name in changed)
            self._log.message(f"the run goes on where numbers are rounded otherwise: {changes}")

    def _tell_corrupt(self) -> None:
        names = self._corrupt()
        if len(names) > self._corrupt_told:
            self._corrupt_told, first = len(names), names[:5]
            self._log.event("corrupt", step=self.step, count=len(names), first=first)
            self._log.message(f"{len(names)} corrupt images or recordings are left out, such as {', '.join(first)}")

    def _save(self, folder: Path, *, or_end: bool = False) -> bool:
        """Whether the checkpoint was written. Where the disk did not take it, training goes on with the one before it,
        and tries again at the next; with `or_end`, or where the folder is gone, it ends with NotWritten."""
        refusal = self._write(folder)
        trouble = 2.0 if isinstance(refusal, FolderGone) else float(refusal is not None)
        shared = self.ranks.total(torch.tensor(trouble, device=self.device)).item()
        if not shared:
            return True
        if or_end or shared > 1:
            raise refusal or NotWritten(f"rank 0 could not write {folder}")
        self._log.message(f"{refusal}; training goes on, {last_kept(folder)}")
        self._log.event("unsaved", step=self.step, reason=str(refusal))
        return False

    def _write(self, folder: Path) -> NotWritten | None:
        if self._log.gone:
            run = self.last_folder.parent.parent
            gone = FolderGone(f"{run} was deleted or moved while the run trained into it, at step {self.step}")
            if self._sharded:  # the other ranks wait for shards
                raise gone
            return gone
        state = self._state().to_json()
        if self._sharded:
            write_shards(folder, state, **self._parts(), ranks=self.ranks, whole=folder == self.best_folder)
        elif self.ranks.leads:
            averaged = self.ema.module.state_dict() if self.ema is not None else {}
            carried = moments(self.model, self.optimizer)
            try:
                write_checkpoint(folder, Checkpoint(self.model.state_dict(), state, averaged, carried))
            except NotWritten as refusal:
                return refusal
        return None

    def _state(self) -> RunState:
        return RunState(
            step=self.step,
            epoch=self._epoch,
            batch=self._batch,
            steps_per_epoch=self._steps_per_epoch,
            loss_sum=self._loss_sum,
            metrics=storable(self._metrics),
            best=storable(self._best),
            rng=rng_state(),
            recipe=self.recipe.to_json(),
            environment=self._environment(),
            group_steps=group_steps(self.optimizer),
            guard=self._guard.state() if self._guard is not None else None,
        )

    def _environment(self) -> dict[str, Any]:
        return {"device": str(self.device), "ranks": self.ranks.world_size, **environment()}

    def _parts(self) -> dict[str, Any]:
        """What is split over ranks."""
        averaged = None if self.ema is None else self.ema.module
        return {"model": self.model, "optimizer": self.optimizer, "ema": averaged}

    def _check_same_run(self, before: Recipe, state: RunState, folder: Path) -> None:
        ours, theirs = (_flat(recipe.to_json()) for recipe in (self.recipe, before))
        either = {**theirs, **ours}
        names = [name for name in either if name not in FREE_ON_RESUME and ours.get(name) != theirs.get(name)]
        if names:
            differences = "; ".join(f"{name} was {theirs.get(name)!r}, now {ours.get(name)!r}" for name in names[:4])
            differences += f"; and {len(names) - 4} others" if len(names) > 4 else ""
            raise ValueError(f"the run in {folder} has another recipe: {differences}; a new run wants another out_dir")
        if state.steps_per_epoch != self._steps_per_epoch:
            seen = f"{state.steps_per_epoch} steps an epoch, this data gives {self._steps_per_epoch}"
            raise ValueError(f"the run in {folder} had {seen}")

    def _describe_failure(self, loss: float, norm: float, rate: float) -> str:
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm} (loss {loss})"
        return (
            f"{what} at epoch {self._epoch + 1}, step {self.step + 1}, lr {rate:.3g}; {last_kept(self.last_folder)}. "
            "A lower lr, a clip_norm or a longer warm-up may help"
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by key, those of augment and of the model as `augment.KEY` and `model_options.KEY`."""
    nested = {name: value for name, value in settings.items() if isinstance(value, dict)}
    inner = {f"{name}.{key}": value for name, values in nested.items() for key, value in values.items()}
    return {name: value for name, value in settings.items() if name not in nested} | inner
