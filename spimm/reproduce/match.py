"""Whether a run is the published one, the same on small data, or neither; and what was reduced."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

from spimm.models import list_models, model_card
from spimm.reproduce.rows import DATASETS, Row
from spimm.train import Recipe, list_recipes, load_recipe
from spimm.train.plan import KNOWN

TITLES = {
    "npz:cifar10_jpeg.npz": "a JPEG copy of CIFAR-10",
    "npz:tinyimagenet32_100c_jpeg.npz": "100 classes of Tiny-ImageNet at 32x32, JPEG",
    "events:nmnist_small.npz": "1,100 recordings of N-MNIST",
}
_UNSAID = (
    "name", "seed", "checkpoint_every", "log_every", "eval_every", "num_workers", "tensorboard", "device", "corrupt",
    "accumulate", "batch_parts", "parallel", "rank_timeout",
)  # fmt: skip
_NAMED = ("model", "data", "model_options", "epochs", "cooldown_epochs", "init_from", "frames", "fold", "folds")


SAME_IMAGES = {"npz:cifar10_jpeg.npz": "cifar10"}
"""Data sets that hold the images of a row's data in another file format, by the key of DATASETS."""


class Status(Enum):
    """How far a figure is reproduced, the most first."""

    FULL = "reproduced in full"
    OWN = "trained otherwise"
    SCALED = "scaled down"
    OFF = "counted, not as printed"
    OUT = "not reachable here"


def check_stands_for(row: Row, recipe: Recipe) -> None:
    """ValueError unless a run of `recipe` may stand for the row: the model, options and data of one of its setups."""
    setups = [setup.resolve() for setup in (row.full, row.scaled) if setup is not None]
    if not any(_is_like(recipe, setup) for setup in setups):
        wanted = " or ".join(f"{setup.model} {dict(setup.model_options)} on {setup.data}" for setup in setups)
        raise ValueError(
            f"a run of {recipe.model} {dict(recipe.model_options)} on {recipe.data} does not stand for {row.id}; "
            f"wanted {wanted or 'none, it has no recipe'}"
        )


def check_alike(recipes: Sequence[Recipe]) -> None:
    """ValueError unless the runs of one record have recipes that differ in seed or fold alone, and each of its own."""
    marks = [(recipe.seed, recipe.fold) for recipe in recipes]
    if len(set(marks)) < len(marks):
        raise ValueError(f"runs of one record have the seeds and folds {marks}; wanted each once")
    for recipe in recipes[1:]:
        like = replace(recipes[0], seed=recipe.seed, fold=recipe.fold)
        other = [item.name for item in fields(Recipe) if getattr(recipe, item.name) != getattr(like, item.name)]
        if other:
            raise ValueError(f"runs of one record differ in {', '.join(other)}; wanted seeds or folds alone")


def status_of_run(row: Row, recipe: Recipe, images: int) -> Status:
    """FULL for the row's own training on its whole data; OWN for another training of the same model on that data.

    More epochs than the row's recipe has are no other training.
    """
    if row.full is None:
        return Status.SCALED
    full = row.full.resolve()
    whole = images == KNOWN[full.data].test and recipe.fold == full.fold
    if not whole or (recipe.model, recipe.data, recipe.image_size) != (full.model, full.data, full.image_size):
        return Status.SCALED
    if list(reductions(row, replace(recipe, epochs=full.epochs, cooldown_epochs=full.cooldown_epochs))):
        return Status.OWN
    return Status.FULL if recipe.total_epochs >= full.total_epochs else Status.SCALED


def on_other_data(row: Row, recipe: Recipe) -> bool:
    """Whether a run saw other images than the row's: its figures then stand in a table of their own."""
    same = row.full is not None and recipe.data == row.full.resolve().data
    return not same and SAME_IMAGES.get(recipe.data) != row.data


def status_of_count(row: Row, metric: str) -> Status:
    """FULL where a count rounds to what is printed, to the last printed digit; else OFF."""
    printed = row.figures[metric]
    digits = -Decimal(repr(printed)).as_tuple().exponent  # type: ignore[operator]
    met = abs(row.counts[metric].compute() - printed) <= 0.5 * 10**-digits * (1 + 1e-9)
    return Status.FULL if met else Status.OFF


def reductions(row: Row, recipe: Recipe) -> Iterator[str]:
    """What a scaled-down run has less of, or else, than the row's own recipe."""
    full = row.full.resolve() if row.full is not None else None
    if full is None or recipe.data != full.data:
        yield f"{TITLES.get(recipe.data, recipe.data)} for {DATASETS[row.data]}"
    if full is None:
        return
    if recipe.model != full.model:
        yield f"{_size(recipe.model)} for {_size(full.model)}"
    if recipe.total_epochs != full.total_epochs:
        yield f"{recipe.total_epochs} of {full.total_epochs} epochs"
    starts = [_start(setup) for setup in (recipe, full)]
    if starts[0] and starts[1]:
        yield f"{starts[0].total_epochs} of {starts[1].total_epochs} epochs before it, of the run it starts from"
    before, after = ({**setup.model_options, **_steps(setup)} for setup in (full, recipe))
    yield from (
        f"{key} {after.get(key, 'default')} for {before.get(key, 'default')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    )
    others = [
        item.name
        for item in fields(Recipe)
        if item.name not in (*_UNSAID, *_NAMED) and getattr(recipe, item.name) != getattr(full, item.name)
    ]
    if others:
        yield f"other: {', '.join(others)}"


def _is_like(recipe: Recipe, setup: Recipe) -> bool:
    """The model, data, frames and size of a setup, and its model options among the recipe's."""
    same = ("model", "data", "frames", "bins", "image_size")
    return all(getattr(recipe, name) == getattr(setup, name) for name in same) and (
        setup.model_options.items() <= recipe.model_options.items()
    )


def _start(recipe: Recipe) -> Recipe | None:
    """The recipe of the run that a recipe starts from, where it has the name of one."""
    name = Path(recipe.init_from).name if recipe.init_from is not None else None
    return load_recipe(name) if name in list_recipes() else None


def _steps(recipe: Recipe) -> dict[str, Any]:
    """Time steps, those of the model's card where the recipe does not say."""
    given = recipe.model_options.get("num_steps", recipe.frames)
    return {"num_steps": model_card(recipe.model).num_steps if given is None else given}


def _size(model: str) -> str:
    if model not in list_models():
        return f"`{model}`"
    return f"`{model}` ({model_card(model).params / 1e6:.3g} M)"
