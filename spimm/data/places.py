"""Where the files of a data set are: in the data folder, below it, or below the working folder."""

import logging
import os
from functools import cache
from pathlib import Path

logger = logging.getLogger("spimm.data")

VARIABLE = "SPIMM_DATA"
REMEDY = f"give --data-dir FOLDER (data_dir=FOLDER in Python) or set the environment variable {VARIABLE}"


def data_folder(spec: str, data_dir: str | Path | None, *, may_create: bool = False) -> Path:
    """`data_dir`, or what SPIMM_DATA names. FileNotFoundError, saying what `spec` needs it for, where there is none."""
    chosen = _chosen(data_dir)
    if chosen is None:
        raise FileNotFoundError(f"{spec} needs a data folder, none is given: {REMEDY}")
    if not chosen.is_dir() and not may_create:
        raise FileNotFoundError(f"{spec} needs a data folder, {chosen} is none: {REMEDY}")
    return chosen


def data_path(spec: str, data_dir: str | Path | None) -> Path:
    """The path after the colon of `spec`: an absolute one; one below the data folder; one below the working folder.

    In this order, the first that is there; the last is said once where there is a data folder. FileNotFoundError names
    the places tried.
    """
    target = Path(spec.partition(":")[2]).expanduser()
    if target.is_absolute():
        return target
    if data_dir is not None:
        data_folder(spec, data_dir)
    chosen = _chosen(data_dir)
    if chosen is not None and (chosen / target).exists():
        return chosen / target
    if not target.exists():
        below = "no data folder is given" if chosen is None else f"there is no {chosen / target}"
        raise FileNotFoundError(
            f"{spec} is not found: there is no {Path.cwd() / target} and {below};\n{REMEDY}, or give an absolute path"
        )
    if chosen is not None:
        _tell(spec, str(Path.cwd() / target), str(chosen))
    return Path.cwd() / target


def _chosen(data_dir: str | Path | None) -> Path | None:
    chosen = os.environ.get(VARIABLE) if data_dir is None else data_dir
    return Path(chosen).expanduser() if chosen else None


@cache
def _tell(spec: str, found: str, folder: str) -> None:
    logger.warning("%s is taken from the working folder (%s): the data folder %s has none", spec, found, folder)
