"""`manifest.json` of a checkpoint folder: the SHA-256 of each of its files."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spimm.files import has_stated_size, read_json, sha256

MANIFEST_FILE = "manifest.json"
FORMAT, VERSION = "spimm-checkpoint", 2
OLD_VERSION = 1
"""Wrote what is no weights as pickles, which are no longer read."""
_NAME = re.compile(r"(?!\.\.)[\w.-]+(/(?!\.\.)[\w.-]+)?")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class CheckpointError(ValueError):
    """A checkpoint that is damaged, foreign, or made for another model."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint folder holds: the SHA-256 of each file by its name, which may have one folder in it."""

    folder: Path
    version: int
    files: dict[str, str]

    def check(self, *names: str) -> None:
        """CheckpointError unless the files of these names, by default all, are as they were written."""
        for name in names or self.files:
            path = self.folder / name
            if name not in self.files or not path.is_file():
                raise CheckpointError(f"{path} is missing from its checkpoint")
            other_size = path.suffix == ".safetensors" and not has_stated_size(path)
            if other_size or sha256(path) != self.files[name]:
                what = "is cut short or was changed after it was written"
                raise CheckpointError(f"{path} {what}: its SHA-256 is another")


def write_manifest(folder: Path) -> None:
    """Writes the manifest of all files in `folder`."""
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}
    manifest = {"format": FORMAT, "version": VERSION, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`. CheckpointError where there is none, for a damaged one and for another format."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint of spimm: it has no {MANIFEST_FILE}. "
            "Copy the folder again, or name a .safetensors file in it"
        )
    values = _values(path)
    if not _is_ours(values):
        raise CheckpointError(f"{path} is not the manifest of a checkpoint of spimm")
    version = values.get("version")
    if version not in (OLD_VERSION, VERSION) or isinstance(version, bool):
        raise CheckpointError(f"{path} has format version {version!r:.40}, this spimm reads version {VERSION}")
    files = values.get("files")
    if not isinstance(files, dict) or not all(_is_entry(name, digest) for name, digest in files.items()):
        raise CheckpointError(f"{path} is damaged: files must be names within the folder, each with a SHA-256")
    return Manifest(folder, version, files)


def check_listed(path: Path) -> None:
    """CheckpointError if `path` lies in a checkpoint folder whose manifest has another SHA-256 for it."""
    listing = path.parent / MANIFEST_FILE
    if listing.is_file() and _is_ours(_values(listing)):
        manifest = read_manifest(path.parent)
        if path.name in manifest.files:
            manifest.check(path.name)


def _values(path: Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _is_ours(values: Any) -> bool:
    return isinstance(values, dict) and values.get("format") == FORMAT


def _is_entry(name: str, digest: object) -> bool:
    return bool(_NAME.fullmatch(name)) and isinstance(digest, str) and bool(_DIGEST.fullmatch(digest))
