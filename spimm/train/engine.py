"""The training loop: one `Trainer` takes a model through a recipe, and can stop and go on at any step, bit for bit."""

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from spimm.layers import quantised
from spimm.tasks import Classify
from spimm.train.checkpoint import Checkpoint, find_checkpoint, read_checkpoint, write_checkpoint
from spimm.train.config import Recipe
from spimm.train.evaluation import Batches, compute_in, evaluate, pick_device
from spimm.train.interrupt import StopRequest
from spimm.train.log import RunLog, environment
from spimm.train.optim import build_optimizer, learning_rate
from spimm.train.seeding import deterministic, rng_state, set_rng_state
from spimm.weights import load_state

# settings that change where and how a run is carried out, not what it computes
FREE_ON_RESUME = ("name", "device", "num_workers", "checkpoint_every", "log_every", "tensorboard")


class NonFiniteLoss(RuntimeError):
    """The loss or the norm of its gradient is not finite; the weights of the last checkpoint are as they were."""


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
    """Trains `model` on `task` as `recipe` says; everything it writes goes to `<out_dir>/checkpoints` and `log`."""

    def __init__(
        self,
        recipe: Recipe,
        out_dir: Path,
        *,
        model: nn.Module,
        task: Classify,
        train_loader: Batches,
        test_loader: Batches,
        log: RunLog,
    ) -> None:
        self.recipe = recipe
        self.device = pick_device(recipe.device)
        self.model = model.to(self.device)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = build_optimizer(self.model, recipe)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        self.last_folder, self.best_folder = out_dir / "checkpoints" / "last", out_dir / "checkpoints" / "best"
        self._task, self._log = task, log
        self._train_loader, self._test_loader = train_loader, test_loader
        self._steps_per_epoch = len(train_loader)
        if self._steps_per_epoch == 0:
            raise ValueError(f"the training data does not fill one batch of batch_size={recipe.batch_size}")
        self.step = 0  # steps taken
        self._epoch, self._batch = 0, 0  # the next batch to train on
        self._loss_sum = 0.0  # over the batches of this epoch
        self._metrics: dict[str, float] = {}
        self._best: dict[str, float] = {}

    def restore(self, folder: Path) -> None:
        """Takes up the run saved in `folder`. ValueError when its recipe or its data's size is another."""
        checkpoint = read_checkpoint(folder)
        state = checkpoint.state
        self._check_same_run(state, folder)
        load_state(self.model, checkpoint.model, str(folder))
        if self.ema is not None:
            load_state(self.ema.module, checkpoint.ema, str(folder))
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self._epoch, self._batch = state["step"], state["epoch"], state["batch"]
        self._loss_sum, self._metrics, self._best = state["loss_sum"], state["metrics"], state["best"]
        set_rng_state(state["rng"])

    def fit(self) -> TrainResult:
        """Trains to the end, or to SIGINT or SIGTERM: then it finishes the step, saves and returns.

        NonFiniteLoss as soon as the loss or its gradient's norm is not finite.
        """
        recipe, total_epochs = self.recipe, self.recipe.total_epochs
        with self._log, deterministic(), StopRequest() as stop:
            self._log.open(step=self.step, total_steps=total_epochs * self._steps_per_epoch, total_epochs=total_epochs)
            about = {"device": str(self.device), **environment(), "recipe": recipe.to_json()}
            self._log.event("resume" if self.step else "start", step=self.step, **about)
            while self._epoch < total_epochs and not stop.requested:
                images_per_second = self._train_epoch(stop)
                if stop.requested:
                    self._save(self.last_folder)
                else:
                    self._finish_epoch(images_per_second)
            if self._epoch < total_epochs:
                self._log.event("stop", step=self.step, reason=stop.signal_name)
                self._log.message(
                    f"stopped by {stop.signal_name} after step {self.step}, saved in {self.last_folder}: "
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
            self._train_step(images, labels)
            seen += len(labels)
            if stop.requested:
                break
            if every and self.step % every == 0 and self._batch < self._steps_per_epoch:
                self._save(self.last_folder)
        return seen / (time.perf_counter() - started)

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        rate = learning_rate(self.recipe, self.step, steps_per_epoch=self._steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._task.check_labels(labels)
        images, labels = (tensor.to(self.device, non_blocking=True) for tensor in (images, labels))
        with self._quantised(self.model):
            with compute_in(self.recipe.precision, self.device):
                loss = self._task(self.model, images, labels)["loss"]
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        value, norm = torch.stack([loss.detach(), self._clip_gradients()]).tolist()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise NonFiniteLoss(self._describe_failure(value, norm, rate))
        self.optimizer.step()
        self.step += 1
        self._batch += 1
        self._loss_sum += value
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        self._log.step(step=self.step, images=len(labels), epoch=self._epoch + 1, loss=value, lr=rate, grad_norm=norm)

    def _quantised(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within it `model` computes with weights of the recipe's bits."""
        return quantised(model, self.recipe.weight_bits, self.recipe.weight_bits_per)

    def _clip_gradients(self) -> Tensor:
        """The norm of all gradients before they are clipped."""
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.recipe.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip_norm, norm)
        return norm

    def _finish_epoch(self, images_per_second: float) -> None:
        """Evaluates, logs and saves; the state saved is that of the next epoch's start."""
        started = time.perf_counter()
        epoch = self._epoch + 1
        record: dict[str, float] = {"epoch": epoch, "train_loss": self._loss_sum / self._batch}
        record["images_per_second"] = images_per_second
        evaluated = epoch % self.recipe.eval_every == 0 or epoch == self.recipe.total_epochs
        if evaluated:
            self._metrics = self._evaluate()
            record |= {**self._metrics, "eval_seconds": time.perf_counter() - started}
        self._log.epoch(step=self.step, **record)
        self._epoch, self._batch, self._loss_sum = epoch, 0, 0.0
        score = "ema_top1" if self.ema is not None else "top1"
        improved = evaluated and self._metrics[score] > self._best.get(score, -math.inf)
        if improved:
            self._best = {"epoch": epoch, **self._metrics}
            self._save(self.best_folder)  # before `last`, so that a crash between the two repeats the epoch
        self._save(self.last_folder)

    def _evaluate(self) -> dict[str, float]:
        settings: dict[str, Any] = {"precision": self.recipe.precision, "device": self.device}
        with self._quantised(self.model):
            metrics = evaluate(self.model, self._test_loader, self._task, **settings)
        if self.ema is not None:
            with self._quantised(self.ema.module):
                averaged = evaluate(self.ema.module, self._test_loader, self._task, **settings)
            metrics |= {f"ema_{name}": averaged[name] for name in ("loss", "top1", "top5")}
        return metrics

    def _save(self, folder: Path) -> None:
        state = {
            "step": self.step,
            "epoch": self._epoch,
            "batch": self._batch,
            "steps_per_epoch": self._steps_per_epoch,
            "loss_sum": self._loss_sum,
            "metrics": self._metrics,
            "best": self._best,
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(),
            "recipe": self.recipe.to_json(),
        }
        averaged = self.ema.module.state_dict() if self.ema is not None else {}
        write_checkpoint(folder, Checkpoint(model=self.model.state_dict(), ema=averaged, state=state))

    def _check_same_run(self, state: dict[str, Any], folder: Path) -> None:
        ours, theirs = (recipe.to_json() for recipe in (self.recipe, Recipe.from_json(state["recipe"])))
        names = [name for name in ours if name not in FREE_ON_RESUME and ours[name] != theirs[name]]
        if names:
            differences = "; ".join(f"{name} was {theirs[name]!r}, now {ours[name]!r}" for name in names)
            raise ValueError(f"the run in {folder} has another recipe: {differences}; a new run wants another out_dir")
        before, now = state["steps_per_epoch"], self._steps_per_epoch
        if before != now:
            raise ValueError(f"the run in {folder} had {before} steps an epoch, this data gives {now}")

    def _describe_failure(self, loss: float, norm: float, rate: float) -> str:
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm} (loss {loss})"
        good = find_checkpoint(self.last_folder)
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"
        return (
            f"{what} at epoch {self._epoch + 1}, step {self.step + 1}, lr {rate:.3g}; {kept}. "
            "A lower lr, a clip_norm or a longer warm-up may help"
        )
