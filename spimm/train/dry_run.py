"""A run before it starts: data, model, task and optimiser are built, a few steps are taken and measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from spimm.data import ImageData, ImageSplit
from spimm.kernels.resident import forget_peak, give_back_freed_memory, resident
from spimm.layers import quantised
from spimm.tasks import Classify, Distill
from spimm.train.checkpoint import load_weights
from spimm.train.config import Recipe
from spimm.train.evaluation import compute_in, pick_device
from spimm.train.optim import build_optimizer, set_learning_rate
from spimm.train.plan import FLOAT, KNOWN, DataSize, Plan, Probe, memory_line, resting_bytes
from spimm.train.run import build_data, build_loader, build_model, build_task
from spimm.train.seeding import seed_everything
from spimm.words import counted

PROBE_PIXELS = {"cpu": 2**17, "cuda": 2**24}
"""Pixels of all frames of the measured step where the batch has more, by kind of device; at least 4 images it has."""


@dataclass(frozen=True)
class DryRun:
    """The plan, the device that it was measured on, and what it leaves out or takes from elsewhere than the files."""

    plan: Plan
    device: str
    notes: tuple[str, ...]


def plan_run(
    recipe: Recipe, *, data_dir: str | Path | None = None, images: int | None = None, processes: int = 1
) -> DryRun:
    """Builds all that `train` builds, takes a warm-up step and two measured ones of different size, writes nothing.

    Where the data is not there but its size is published (`plan.KNOWN`) the batches are noise. images: of the larger
    step, by default those of the batch, or of `PROBE_PIXELS`. processes: that share the batch, each as fast as this.
    """
    for name, value in (("images", images), ("processes", processes)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    notes = [f"a setting without effect: {setting}" for setting in recipe.idle]
    device = pick_device(recipe.device)
    data, size = _data(recipe, data_dir, images, notes)
    task = _task(recipe, data, notes)
    seed_everything(recipe.seed)
    model = build_model(recipe, data).to(device)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if recipe.init_from is not None and not Path(recipe.init_from).exists():
        notes.append(f"init_from={recipe.init_from} is not there yet; the run needs it")
    elif recipe.init_from is not None:
        load_weights(model, recipe.init_from, new_head=True)
    most = images or _probe_images(recipe, data.image_size)
    batch = _batch(recipe, data, most)
    if len(batch[1]) < most:
        notes.append(f"the training data has {counted(len(batch[1]), 'image')}; a step has as many")
    probes = _measure(recipe, model, task, batch, notes)
    plan = Plan(
        recipe,
        size,
        sum(parameter.numel() for parameter in model.parameters()),
        probes[-1],
        memory_line(*probes) if len(probes) == 2 else None,
        processes,
    )
    return DryRun(plan, f"{device}, {counted(torch.get_num_threads(), 'thread')}", tuple(notes))


def _probe_images(recipe: Recipe, size: tuple[int, int]) -> int:
    steps = recipe.frames or recipe.model_options.get("num_steps", 1)
    pixels = size[0] * size[1] * int(steps)
    return min(recipe.batch_size, max(4, PROBE_PIXELS[pick_device(recipe.device).type] // pixels))


def _data(
    recipe: Recipe, data_dir: str | Path | None, images: int | None, notes: list[str]
) -> tuple[ImageData, DataSize]:
    try:
        data = build_data(recipe, data_dir=data_dir)
    except FileNotFoundError as error:
        if recipe.data not in KNOWN:
            raise
        notes.append(f"the data is not there ({error}); its published size and noise take its place")
        size = KNOWN[recipe.data]
        return _noise(recipe, size, images), size.hold_out(recipe.val_share) if recipe.val_share else size
    held_out = 0 if data.val is None else len(data.val)
    return data, DataSize(len(data.train), len(data.test), data.num_classes, data.in_chans, data.image_size, held_out)


def _noise(recipe: Recipe, size: DataSize, images: int | None) -> ImageData:
    """As many random images as the measured step takes, of the shape that the recipe asks for."""
    height, width = size.size if recipe.image_size is None else (recipe.image_size,) * 2
    count = images or _probe_images(recipe, (height, width))
    frames = () if recipe.frames is None else (recipe.frames,)
    shape = (count, height, width, *frames, size.in_chans)
    pixels = np.random.default_rng(0).integers(0, 256 if recipe.frames is None else 3, shape, dtype=np.uint8)
    split = ImageSplit.from_arrays(pixels, np.arange(count) % size.classes)
    level = (0.5,) * size.in_chans
    names = tuple(map(str, range(size.classes)))
    return ImageData(recipe.data, split, split, class_names=names, mean=level, std=level, note="noise")


def _task(recipe: Recipe, data: ImageData, notes: list[str]) -> Classify:
    try:
        return build_task(recipe, data)
    except FileNotFoundError as error:
        if recipe.teacher is None:
            raise
        notes.append(f"{error}; a teacher with random weights takes its place")
    task = build_task(replace(recipe, teacher=None, teacher_weights=None), data)
    teacher = timm.create_model(recipe.teacher, num_classes=data.num_classes, in_chans=data.in_chans)
    teacher = teacher.to(pick_device(recipe.device))
    return replace(
        task, distill=Distill(teacher, recipe.distillation, recipe.distill_alpha, recipe.distill_temperature)
    )


def _batch(recipe: Recipe, data: ImageData, images: int) -> tuple[Tensor, Tensor]:
    """A batch as training has it, of at most as many images as there are."""
    augment = recipe.augment
    if isinstance(data.train.images, Tensor):
        augment = replace(augment, crop_scale=None)
    whole = {"accumulate": 1, "batch_parts": 1, "repeats": 1, "num_workers": 0, "augment": augment}
    small = replace(recipe, batch_size=min(images, len(data.train)), **whole)
    return next(iter(build_loader(small, data, train=True)))


def _measure(
    recipe: Recipe, model: nn.Module, task: Classify, batch: tuple[Tensor, Tensor], notes: list[str]
) -> list[Probe]:
    """Of half the batch and of all of it, after a warm-up step; one probe of a batch below 4."""
    device = next(model.parameters()).device
    inputs, labels = (tensor.to(device) for tensor in batch)
    optimizer = build_optimizer(model, recipe)
    set_learning_rate(optimizer, recipe.warmup_lr if recipe.warmup_epochs else recipe.lr)
    resting = resting_bytes(sum(weight.numel() for weight in model.parameters()), recipe)
    if task.distill is not None:
        resting += FLOAT * sum(weight.numel() for weight in task.distill.teacher.parameters())

    def step(count: int) -> None:
        model.train()
        with quantised(model, recipe.weight_bits, recipe.weight_bits_per):
            with compute_in(recipe.precision, device):
                loss = task(model, inputs[:count], labels[:count])["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        optimizer.step()

    @torch.no_grad()
    def evaluate(count: int) -> None:
        model.eval()
        with compute_in(recipe.precision, device):
            model(inputs[:count])

    whole = len(labels)
    counts = [whole // 2, whole] if whole >= 4 else [whole]
    step(counts[0])
    probes = []
    for count in counts:
        optimizer.zero_grad(set_to_none=True)
        peak = _Peak(device)
        seconds = _seconds(lambda count=count: step(count), device)
        added = peak.added()
        total = None if added is None else added + resting
        probes.append(Probe(count, seconds, total, _seconds(lambda count=count: evaluate(count), device)))
    if probes[0].peak is None:
        notes.append("the peak of memory could not be measured: that needs Linux or CUDA")
    return probes


class _Peak:
    """Bytes that this process, or this GPU, holds at its peak beyond what it held when this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: float | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        try:
            give_back_freed_memory()
            forget_peak()
            self._before, _ = resident()
        except (RuntimeError, OSError):  # no Linux, or a system that forbids it
            return

    def added(self) -> int | None:
        """None where it cannot be measured."""
        if self._before is None:
            return None
        if self._device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self._device) - self._before)
        return round((resident()[1] - self._before) * 2**20)


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
