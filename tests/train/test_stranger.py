"""A run folder from a stranger: nothing in it runs, whichever door it comes through, and errors say what is wrong."""

import builtins
import copyreg
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from spimm.cli.main import main
from spimm.data import ImageData, load_data
from spimm.files import sha256
from spimm.train import CheckpointError, Recipe, apply_overrides, load_recipe, load_run, load_weights, train
from spimm.train.seeding import set_rng_state
from spimm.train.state import read_state

from .conftest import TinyNet

SMALL = ["epochs=1", "warmup_epochs=0", "batch_size=16", "tensorboard=false", "device=cpu", "model_options.num_steps=1"]
MARK = "CODE_RAN"


class Plain:
    """Calls a function when it is read."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


class Stateful:
    """Calls a function through __setstate__."""

    def __reduce__(self) -> Any:
        return Stateful, (), "state"

    def __setstate__(self, state: object) -> None:
        os.environ[MARK] = "setstate"


class Registered:
    pass


copyreg.pickle(Registered, lambda _: (os.putenv, (MARK, "copyreg")))  # pyright: ignore[reportArgumentType]

CODE = f"__import__('os').environ.__setitem__({MARK!r}, 'eval')"
PLANTED = {
    "system": lambda: Plain(os.system, f"touch {MARK}"),
    "eval": lambda: Plain(builtins.eval, CODE),
    "exec": lambda: Plain(builtins.exec, CODE),
    "setstate": Stateful,
    "copyreg": Registered,
    "nested": lambda: {"optimizer": [{"state": (1, Plain(builtins.eval, CODE))}]},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 32 digits."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("trained") / "run"
    train(small(), out, data=few(), console=Console(file=StringIO()))
    return out


def small() -> Recipe:
    return apply_overrides(load_recipe("digits"), SMALL)


def few() -> ImageData:
    digits = load_data("digits")
    return replace(digits, train=digits.train.subset(range(32)), test=digits.test.subset(range(16)))


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MARK, raising=False)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def list_again(folder: Path) -> None:
    """Makes the manifest fit the files that are there, as a stranger can."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    names = [found for found in folder.rglob("*") if found.is_file() and found != path]
    manifest["files"] = {found.relative_to(folder).as_posix(): sha256(found) for found in names}
    path.write_text(json.dumps(manifest))


def again(run: Path) -> None:
    train(small(), run, data=few(), console=Console(file=StringIO()))


def started_from(path: Path, out: Path) -> None:
    train(replace(small(), init_from=str(path)), out, data=few(), console=Console(file=StringIO()))


DOORS: dict[str, Callable[[Path], object]] = {
    "eval": lambda run: main(["eval", str(run), "--data", "digits"]),
    "load_run": load_run,
    "last": lambda run: load_run(run, which="last"),
    "resume": again,
    "init_from": lambda run: started_from(run, run.parent / "second"),
    "load_weights": lambda run: load_weights(TinyNet(), run / "checkpoints" / "last"),
}


def plant(run: Path, content: bytes, version: int) -> None:
    """Puts `content` into every file of every checkpoint that was ever a pickle, in place of the weights."""
    for which in ("best", "last"):
        folder = run / "checkpoints" / which
        for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
            (folder / name).unlink(missing_ok=True)
        (folder / "shards").mkdir()
        for name in ("state.pt", "state.json", "shards/.metadata", "shards/__0_0.distcp"):
            (folder / name).write_bytes(content)
        list_again(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "version": version}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_in_a_checkpoint_never_runs(
    kind: str, version: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = pickle.dumps(PLANTED[kind]())
    plant(run, content, version)
    for name, door in DOORS.items():
        try:
            assert door(run) == 2, name
        except CheckpointError as error:
            assert len(str(error).splitlines()) <= 3
        assert MARK not in os.environ and not Path(MARK).exists(), name
    assert "spimm: error:" in capsys.readouterr().err


def test_the_planted_kinds_do_run_where_they_are_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "putenv", lambda name, value: None)
    for kind in ("system", "eval", "exec", "setstate", "nested"):
        monkeypatch.delenv(MARK, raising=False)
        pickle.loads(pickle.dumps(PLANTED[kind]()))
        assert MARK in os.environ or Path(MARK).exists()
        Path(MARK).unlink(missing_ok=True)
    monkeypatch.delenv(MARK, raising=False)


def test_an_index_of_earlier_shards_is_refused_with_a_way_on(run: Path) -> None:
    plant(run, pickle.dumps({}), 1)
    with pytest.raises(CheckpointError, match=r"index as a pickle, .*no longer read; checkpoints/best of the run"):
        load_run(run)
    with pytest.raises(CheckpointError, match=r"last was written by an earlier spimm as a pickle, .*init_from="):
        again(run)


def test_weights_of_an_earlier_checkpoint_load_and_its_state_does_not(run: Path) -> None:
    for which in ("best", "last"):
        folder = run / "checkpoints" / which
        (folder / "state.json").rename(folder / "state.pt")
        list_again(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 1}))
    load_run(run)
    with pytest.raises(CheckpointError, match="was written by an earlier spimm as a pickle"):
        again(run)


@pytest.mark.parametrize("door", DOORS)
def test_a_flipped_bit_in_the_weights_is_noticed_at_every_door(door: str, run: Path) -> None:
    for which in ("best", "last"):
        path = run / "checkpoints" / which / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    try:
        assert DOORS[door](run) == 2
    except CheckpointError as error:
        assert "model.safetensors is cut short or was changed" in str(error)


def test_a_flipped_bit_is_noticed_in_a_file_that_is_named_by_itself(run: Path) -> None:
    path = run / "checkpoints" / "best" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is cut short or was changed"):
        load_weights(TinyNet(), path)
    assert main(["eval", "--model", "qkformer_3_64_digits", "--weights", str(path)]) == 2


def test_a_file_that_the_manifest_does_not_name_is_not_taken(run: Path) -> None:
    folder = run / "checkpoints" / "best"
    planted = {name: tensor + 1 for name, tensor in load_file(folder / "model.safetensors").items()}
    before = {name: tensor.clone() for name, tensor in load_run(run)[1].state_dict().items()}
    save_file(planted, folder / "ema.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in load_run(run)[1].state_dict().items())


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "a/../../b", "..", "a\\b", "a/b/c", ""])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(name: str, run: Path) -> None:
    path = run / "checkpoints" / "best" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="must be names within the folder"):
        load_run(run)


ODD: dict[str, Any] = {
    "list": [],
    "text": "text",
    "null": None,
    "number": 1,
    "empty": {},
    "huge": {"num_classes": 10**30, "in_chans": 1, "epochs": 10**400, "files": {}, "step": 10**30},
    "types": {
        "num_classes": [1],
        "in_chans": {"a": 1},
        "model": 3,
        "data": [],
        "files": [1],
        "version": {},
        "step": "x",
    },
    "true": {"num_classes": True, "in_chans": True, "epochs": True, "version": True, "step": True},
    "nested": {"model_options": {"a": {"b": [{}]}}, "augment": [[]], "metrics": {"a": []}, "rng": {"python": 3}},
}
RAW = {
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "latin": '{"model": "é"}'.encode("latin-1"),
    "nan": b'{"lr": NaN}',
    "infinite": b'{"lr": 1e999}',
    "twice": b'{"lr": 1, "lr": 2}',
    "digits": b'{"lr": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"model": "\\ud800"}',
    "cut": b'{"model": "qk',
    "nothing": b"",
    "zero": bytes(100),
}
FILES = ("recipe.json", "data.json", "checkpoints/best/manifest.json")


def assert_refused(run: Path, path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load_run(run)
    assert type(caught.value) in (ValueError, CheckpointError)
    assert str(path.name) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("odd", ODD)
def test_any_json_in_a_run_is_refused_by_name(odd: str, name: str, run: Path) -> None:
    (run / name).write_text(json.dumps(ODD[odd]))
    assert_refused(run, run / name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("raw", RAW)
def test_what_is_no_json_is_refused_by_name(raw: str, name: str, run: Path) -> None:
    (run / name).write_bytes(RAW[raw])
    assert_refused(run, run / name)


def test_one_odd_value_among_good_ones_is_refused_in_words_or_harmless_whatever_the_field(run: Path) -> None:
    good = json.loads((run / "recipe.json").read_text())
    for name in good:
        for odd in ([[]], {"a": {}}, 10**30, -(10**30), "\x00", None, True):
            try:
                Recipe.from_json({**good, name: odd})
            except ValueError as error:
                assert len(str(error).splitlines()) <= 3, (name, odd)


def test_one_odd_value_in_the_state_is_refused_in_words_or_harmless_whatever_the_field(run: Path) -> None:
    folder = run / "checkpoints" / "last"
    good = json.loads((folder / "state.json").read_text())
    paths = [(name,) for name in good] + [("rng", name) for name in good["rng"]]
    for path in paths:
        for odd in ([[]], {"a": {}}, 10**30, -1, "zz", "00", None):
            state = json.loads(json.dumps(good))
            owner = state if len(path) == 1 else state["rng"]
            owner[path[-1]] = odd
            try:
                read = read_state(state, folder)
                Recipe.from_json(read.recipe)
                set_rng_state(read.rng)
            except ValueError as error:
                assert len(str(error).splitlines()) <= 3, (path, odd)
                continue
            assert odd in (None, {"a": {}}, 10**30, -1), (path, odd)


def test_a_state_that_is_none_stops_the_resume(run: Path) -> None:
    folder = run / "checkpoints" / "last"
    state = json.loads((folder / "state.json").read_text())
    for name, odd in (("batch", 10**6), ("rng", {}), ("recipe", []), ("group_steps", [1.0])):
        (folder / "state.json").write_text(json.dumps({**state, name: odd}))
        list_again(folder)
        with pytest.raises(CheckpointError, match="checkpoints/last"):
            again(run)


def test_other_moments_than_the_optimiser_has_are_refused(run: Path) -> None:
    folder = run / "checkpoints" / "last"
    good = load_file(folder / "optimizer.safetensors")
    name = next(name for name in good if name.startswith("exp_avg/"))
    changes: dict[str, dict[str, torch.Tensor]] = {
        "unknown": {"velocity/head.weight": torch.zeros(2)},
        "shape": {name: torch.zeros(3)},
        "integers": {name: torch.zeros(good[name].shape, dtype=torch.int8)},
        "nan": {name: torch.full_like(good[name], float("nan"))},
    }
    for change in changes.values():
        save_file({**good, **change}, folder / "optimizer.safetensors")
        list_again(folder)
        with pytest.raises(CheckpointError, match=r"last holds"):
            again(run)
    save_file({key: value for key, value in good.items() if key != name}, folder / "optimizer.safetensors")
    list_again(folder)
    with pytest.raises(CheckpointError, match=rf"lacks {name}"):
        again(run)


def test_links_and_pipes_in_a_run_folder_lead_nowhere(run: Path, trained: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("as it was")
    for name in (".lock", "log.jsonl"):
        (run / name).unlink()
        (run / name).symlink_to(tmp_path / "dangling" if name == "log.jsonl" else secret)
        with pytest.raises(OSError, match=name if name == "log.jsonl" else "must be writable"):
            again(run)
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(OSError):
            again(run)
        (run / name).unlink()
    assert secret.read_text() == "as it was"
    assert not (tmp_path / "dangling").exists()
    for name in FILES:
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises((FileNotFoundError, CheckpointError)):
            load_run(run)
        shutil.rmtree(run)
        shutil.copytree(trained, run)


def test_a_file_that_was_made_long_is_refused_before_it_is_read(run: Path) -> None:
    path = run / "checkpoints" / "best" / "model.safetensors"
    os.truncate(path, 2**42)  # with a hole: no disk holds it
    with pytest.raises(CheckpointError, match=r"model\.safetensors is cut short or was changed"):
        load_run(run)
