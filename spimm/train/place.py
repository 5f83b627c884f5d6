"""Where the data of a run was: kept beside its recipe, so that the run is evaluated from any folder."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from spimm.data import pin
from spimm.files import read_json, write_text
from spimm.train.config import Recipe
from spimm.train.typed import from_json

RECIPE_FILE, DATA_FILE, PLACE_FILE = "recipe.json", "data.json", "place.json"


@dataclass(frozen=True)
class Place:
    """Arguments of `load_data` that hold from any folder."""

    data: str
    data_dir: str | None


def write_place(out: Path, recipe: Recipe, data_dir: str | Path | None) -> None:
    """Keeps in `out` the absolute paths at which `load_data` finds the recipe's data."""
    place = Place(*pin(recipe.data, data_dir))
    write_text(out / PLACE_FILE, json.dumps(asdict(place), indent=2) + "\n")


def in_place(recipe: Recipe, run: Path, data_dir: str | Path | None) -> tuple[Recipe, str | Path | None]:
    """The recipe and data folder with which its data is found again where the run in that folder had it.

    Both as they are if `data_dir` is given, and if nothing is kept or there any more.
    """
    if data_dir is not None or not (run / PLACE_FILE).is_file():
        return recipe, data_dir
    place = from_json(Place, read_json(run / PLACE_FILE), PLACE_FILE)
    path = place.data_dir or place.data.partition(":")[2]
    if not path or not Path(path).exists():
        return recipe, data_dir
    return replace(recipe, data=place.data), place.data_dir
