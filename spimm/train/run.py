"""From a recipe to a trained model: data, model, task and loaders are built and handed to the engine."""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from torch import nn

from spimm.data import ImageData, ImageFiles, Loader, Mix, load_data
from spimm.files import read_json, write_text
from spimm.layers import set_quantised
from spimm.models import create_model, list_models, model_card
from spimm.tasks import Classify, Distill
from spimm.train.checkpoint import find_checkpoint, load_weights, run_checkpoint, set_aside, this_or_older
from spimm.train.classes import check_same_classes
from spimm.train.config import OptionValue, Recipe
from spimm.train.distributed import Ranks, check_share, naming_lost_ranks, process_group
from spimm.train.engine import Trainer, TrainResult
from spimm.train.evaluation import pick_device
from spimm.train.folder import check_room, checkpoint_bytes, claim_folder
from spimm.train.log import RunLog, SilentLog
from spimm.train.place import DATA_FILE, RECIPE_FILE, in_place, write_place
from spimm.train.seeding import seed_everything
from spimm.train.teacher import build_teacher
from spimm.train.typed import from_json

T = TypeVar("T")


def train(
    recipe: Recipe,
    out_dir: str | Path,
    *,
    resume: str | Path = "auto",
    data_dir: str | Path | None = None,
    download: bool = False,
    data: ImageData | None = None,
    model: nn.Module | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Trains as `recipe` says and writes into `out_dir`: recipe.json, data.json, place.json (where the data is),
    log.jsonl, tensorboard/, checkpoints/.

    resume: `auto` goes on with the run in `out_dir` if there is one, `never` refuses a folder that holds one
    (FileExistsError), a path goes on from that checkpoint folder; a run that goes on does not read `init_from` again.
    data_dir, download: as for `load_data`; a run that goes on looks where its data was. data, model: take the place of
    those the recipe names. console: where progress is shown, by default the error output.

    Under torchrun all its processes train together: each calls this alike, and rank 0 writes.

    FolderInUse where another run trains into `out_dir`, OSError where it is not writable or has no room, RankLost where
    another process of the run ended or does not answer.
    """
    out = Path(out_dir)
    with process_group(recipe.device, recipe.rank_timeout) as ranks, naming_lost_ranks(ranks, out):
        check_share(recipe, ranks)
        sources = {"data_dir": data_dir, "download": download}
        return _train(recipe, out, ranks, resume=resume, data=data, model=model, console=console, **sources)


def _train(
    recipe: Recipe,
    out: Path,
    ranks: Ranks,
    *,
    resume: str | Path,
    data_dir: str | Path | None,
    download: bool,
    data: ImageData | None,
    model: nn.Module | None,
    console: Console | None,
) -> TrainResult:
    folder = _resume_folder(out, resume)
    ranks.agree("the run that there is to go on with", int(folder is not None))
    start = recipe.init_from if folder is None else None
    if start is not None and not Path(start).exists():
        raise FileNotFoundError(f"init_from must be a run, a checkpoint or a .safetensors file, there is no {start}")
    named = data is None
    found, place = in_place(recipe, out, data_dir) if folder is not None else (recipe, data_dir)
    data = build_data(found, data_dir=place, download=download) if data is None else data
    if folder is not None and (out / DATA_FILE).is_file():
        check_same_classes(data, out)
    if data.frames != recipe.frames:
        raise ValueError(f"data must have the recipe's frames={recipe.frames}, {data.name} has {data.frames}")
    task = build_task(recipe, data)
    for split in data.parts.values():
        task.check_labels(split.labels)
    seed_everything(recipe.seed)
    model = model or build_model(recipe, data)
    if start is not None:
        load_weights(model, start, new_head=True)
    seed_everything(recipe.seed)  # what training draws does not depend on what building the model drew
    batches = build_loader(recipe, data, train=True, ranks=ranks)
    with claim_folder(out) if ranks.leads else nullcontext():
        log = _log(recipe, out, ranks, console, data.num_classes)
        trainer = Trainer(
            recipe,
            out,
            model=model,
            task=task,
            train_loader=batches,
            test_loader=build_loader(recipe, data, train=False, ranks=ranks),
            val_loader=build_loader(recipe, data, train=False, ranks=ranks, val=True) if data.val is not None else None,
            log=log,
            ranks=ranks,
            corrupt=lambda: [*data.left_out, *(name for split in data.parts.values() for name in split.corrupt)],
        )
        if folder is not None:
            by_itself = resume == "auto"
            used = this_or_older(folder, trainer.restore, log.message) if by_itself else trainer.restore(folder)
        ranks.agree("the step to go on from", trainer.step)
        if folder is not None and ranks.leads and used != folder:
            set_aside(folder)
        if ranks.leads:
            for setting in recipe.idle:
                log.message(f"a setting without effect: {setting}")
            _mind_parts(recipe, ranks, data, log)
            records = len(batches) * recipe.total_epochs // recipe.log_every + 3 * recipe.total_epochs + 2
            check_room(out, checkpoint=checkpoint_bytes(trainer.model, averaged=recipe.ema_decay > 0), records=records)
            write_text(out / RECIPE_FILE, json.dumps(recipe.to_json(), indent=2) + "\n")
            write_text(out / DATA_FILE, json.dumps(_data_facts(recipe, data), indent=2) + "\n")
            if named:
                write_place(out, found, place)
        return trainer.fit()


def _mind_parts(recipe: Recipe, ranks: Ranks, data: ImageData, log: RunLog) -> None:
    """Says so where ranks decode image files that others use."""
    decoded = recipe.batch_size // recipe.parts
    used = recipe.batch_size // ranks.world_size
    if decoded > used and isinstance(data.train.images, ImageFiles):
        log.message(
            f"each rank decodes {decoded} images a step to use {used}: batch_parts={ranks.world_size} saves that"
        )


def _log(recipe: Recipe, out: Path, ranks: Ranks, console: Console | None, classes: int) -> RunLog:
    if not ranks.leads:
        return SilentLog()
    return RunLog(out, every=recipe.log_every, tensorboard=recipe.tensorboard, console=console, classes=classes)


def load_run(
    folder: str | Path, *, which: str = "best", model_options: Mapping[str, OptionValue] | None = None
) -> tuple[Recipe, nn.Module]:
    """Recipe and trained model, in eval mode, of the run that `train` wrote into `folder`; needs no data.

    which: best or last, the checkpoint whose weights are loaded (averaged ones if the run has them), quantised where
    the recipe says so (`load_weights` gives those behind them). model_options: changes to the recipe's; num_steps also
    changes the frames of an event run. FileNotFoundError for a folder without a run or without that checkpoint.
    """
    run = Path(folder)
    for name in (RECIPE_FILE, DATA_FILE):
        if not (run / name).is_file():
            raise FileNotFoundError(
                f"{run} holds no training run: it has no {name}, which the command that trains into it writes"
            )
    recipe = _described(run / RECIPE_FILE, Recipe.from_json)
    changes: dict[str, Any] = dict(model_options or {})
    frames = None if recipe.frames is None else changes.get("num_steps", recipe.frames)
    recipe = replace(recipe, frames=frames, model_options={**recipe.model_options, **changes})
    checkpoint = run_checkpoint(run, which)
    facts = _described(run / DATA_FILE, lambda values: from_json(DataFacts, values, "data", known_only=False))
    model = _create(recipe, num_classes=facts.num_classes, in_chans=facts.in_chans)
    this_or_older(checkpoint, lambda folder: load_weights(model, folder))
    if recipe.weight_bits is not None:
        set_quantised(model, recipe.weight_bits, recipe.weight_bits_per)
    return recipe, model.eval()


def build_data(recipe: Recipe, *, data_dir: str | Path | None = None, download: bool = False) -> ImageData:
    """The data set the recipe names, its events in frames, its images resized, held out and in folds as it says.

    data_dir, download: as for `load_data`.
    """
    return load_data(
        recipe.data,
        data_dir=data_dir,
        image_size=recipe.image_size,
        frames=recipe.frames,
        bins=recipe.bins,
        bin_size=recipe.bin_size,
        representation=recipe.representation,
        merge_polarity=recipe.merge_polarity,
        sensor_size=recipe.sensor_size,
        sensor=recipe.sensor,
        stream=recipe.stream,
        out_of_order=recipe.out_of_order,
        out_of_bounds=recipe.out_of_bounds,
        split_seed=recipe.split_seed,
        fold=recipe.fold,
        folds=recipe.folds,
        val_share=recipe.val_share,
        interpolation=recipe.interpolation,
        crop_fraction=recipe.crop_fraction,
        corrupt=recipe.corrupt,
        download=download,
    )


def build_task(recipe: Recipe, data: ImageData) -> Classify:
    """Classification of `data` with the recipe's loss, and its teacher if it names one (`build_teacher`)."""
    distill = None
    if recipe.teacher is not None:
        sizes = {"num_classes": data.num_classes, "in_chans": data.in_chans}
        teacher = build_teacher(recipe.teacher, recipe.teacher_weights, **sizes).to(pick_device(recipe.device))
        distill = Distill(teacher, recipe.distillation, recipe.distill_alpha, recipe.distill_temperature)
    return Classify(data.num_classes, label_smoothing=recipe.label_smoothing, distill=distill)


def build_model(recipe: Recipe, data: ImageData, *, pretrained: bool = False) -> nn.Module:
    """The model the recipe names, for the classes and channels of `data`; `pretrained`: as for `create_model`."""
    return _create(recipe, num_classes=data.num_classes, in_chans=data.in_chans, pretrained=pretrained)


def build_loader(
    recipe: Recipe, data: ImageData, *, train: bool, val: bool = False, ranks: Ranks | None = None
) -> Loader:
    """Shuffled, augmented and mixed whole batches of the training split; or the test split in order, to its end.

    val: in the place of the test split the held-out one. ranks: of each batch the share of this one among them; all of
    it by default. ValueError for data without held-out images, and for batches larger than the training split.
    """
    if val and (train or data.val is None):
        raise ValueError(f"val is for evaluation on held-out images, which val_share sets; {data.name} has none")
    held_out = data.val if val and data.val is not None else data.test
    if train and recipe.batch_size > len(data.train):
        raise ValueError(
            f"batch_size={recipe.batch_size} is more than the {len(data.train)} training images of {data.name}: "
            f"give batch_size={len(data.train)} or less"
        )
    rank, world_size = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    mix = None
    if train and (recipe.mixup or recipe.cutmix):
        mix = Mix(data.num_classes, recipe.mixup, recipe.cutmix, recipe.mix_epochs, recipe.mix_probability)
    mean, std = normalization(recipe, data)
    return Loader(
        data.train if train else held_out,
        recipe.batch_size // world_size,
        mean=mean,
        std=std,
        augment=recipe.augment if train else None,
        mix=mix,
        shuffle=train,
        repeats=recipe.repeats if train else 1,
        drop_last=train,
        seed=recipe.seed,
        num_workers=recipe.num_workers,
        rank=rank,
        world_size=world_size,
        parts=recipe.parts if train else 1,
    )


def normalization(recipe: Recipe, data: ImageData) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, on the 0..1 scale, that images lose on their way to the model: those of `data`, or 0 and 1 for a
    model whose card says `unit_input`. A model that is not registered has no card and gets those of `data`.
    """
    if recipe.model in list_models() and model_card(recipe.model).unit_input:
        return (0.0,) * data.in_chans, (1.0,) * data.in_chans
    return data.mean, data.std


def _create(recipe: Recipe, *, num_classes: int, in_chans: int, pretrained: bool = False) -> nn.Module:
    steps = {} if recipe.frames is None else {"num_steps": recipe.frames}
    options: dict[str, Any] = {**steps, **recipe.model_options}
    return create_model(recipe.model, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained, **options)


@dataclass(frozen=True)
class DataFacts:
    """What `load_run` takes of data.json."""

    num_classes: int
    in_chans: int


def _described(path: Path, read: Callable[[Any], T]) -> T:
    """What `read` makes of the JSON in `path`. ValueError, which names it, for a damaged or foreign one."""
    values = read_json(path)
    try:
        return read(values)
    except ValueError as error:
        raise ValueError(f"{path} is damaged or foreign: {error}") from error


def _data_facts(recipe: Recipe, data: ImageData) -> dict[str, Any]:
    """What a model's user has to know of the data it was trained on."""
    mean, std = normalization(recipe, data)
    return {
        "name": data.name,
        "num_classes": data.num_classes,
        "class_names": list(data.class_names),
        "in_chans": data.in_chans,
        "image_size": list(data.image_size),
        "frames": data.frames,
        "mean": list(mean),
        "std": list(std),
        "images": {part: len(split) for part, split in data.parts.items()},
        "note": data.note,
    }


def _resume_folder(out: Path, resume: str | Path) -> Path | None:
    if resume not in ("auto", "never"):
        folder = Path(resume)
        if not folder.is_dir():
            raise FileNotFoundError(f"resume must be auto, never or a checkpoint folder; there is no folder {folder}")
        return folder
    found = find_checkpoint(out / "checkpoints" / "last")
    if found is not None and resume == "never":
        raise FileExistsError(f"{out} holds a run already ({found}): resume=auto goes on with it")
    return found
