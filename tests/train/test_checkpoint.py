import contextlib
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spimm.train import Checkpoint, CheckpointError, checkpoint, load_weights, read_checkpoint
from spimm.train.checkpoint import find_checkpoint, write_checkpoint

from .conftest import TinyNet


def saved(step: int, *, ema: bool = False) -> Checkpoint:
    weights = {"weight": torch.full((2, 3), float(step)), "steps": torch.tensor(step)}
    average = {name: tensor / 2 for name, tensor in weights.items()} if ema else {}
    return Checkpoint(
        model=weights,
        ema=average,
        optimizer={"exp_avg/weight": weights["weight"] / 4},
        state={"step": step, "note": [1.5, [2, None]]},
    )


def step_of(folder: Path) -> int:
    return read_checkpoint(folder).state["step"]


@pytest.mark.parametrize("ema", [False, True])
def test_a_checkpoint_reads_back_as_written(ema: bool, tmp_path: Path) -> None:
    written = saved(3, ema=ema)
    write_checkpoint(tmp_path / "last", written)
    read = read_checkpoint(tmp_path / "last")
    assert written.state == read.state
    for one, other in ((written.model, read.model), (written.ema, read.ema), (written.optimizer, read.optimizer)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_tied_and_channels_last_weights_are_saved_by_value(tmp_path: Path) -> None:
    kernel = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    write_checkpoint(tmp_path / "last", Checkpoint(model={"a": kernel, "b": kernel}, state={}))
    read = read_checkpoint(tmp_path / "last").model
    assert torch.equal(read["a"], kernel)
    assert torch.equal(read["b"], kernel)


def test_the_checkpoint_before_the_last_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / "last", saved(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "last.old"]
    assert (step_of(tmp_path / "last"), step_of(tmp_path / "last.old")) == (3, 2)


@pytest.mark.parametrize("operation", ["save_file", "Path.write_text", "os.fsync", "os.replace", "shutil.rmtree"])
@pytest.mark.parametrize("call", [0, 1])
def test_a_crash_at_any_point_of_writing_leaves_a_whole_checkpoint(
    operation: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path / "last", saved(step))
    calls = []
    original = {
        "save_file": save_file,
        "Path.write_text": Path.write_text,
        "os.fsync": os.fsync,
        "os.replace": os.replace,
        "shutil.rmtree": shutil.rmtree,
    }[operation]

    def fail(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) > call:
            raise KeyboardInterrupt
        original(*arguments, **options)

    owner, _, name = operation.rpartition(".")
    target = {"": checkpoint, "Path": Path, "os": os, "shutil": shutil}[owner]
    with monkeypatch.context() as patch:
        patch.setattr(target, name, fail)
        with contextlib.suppress(KeyboardInterrupt):
            write_checkpoint(tmp_path / "last", saved(3, ema=True))
    found = find_checkpoint(tmp_path / "last")
    assert found is not None
    assert step_of(found) in (2, 3)
    write_checkpoint(tmp_path / "last", saved(4))
    assert step_of(tmp_path / "last") == 4


def test_there_is_nothing_to_find_in_an_empty_folder(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "last") is None
    with pytest.raises(FileNotFoundError, match="no checkpoint folder at"):
        read_checkpoint(tmp_path / "last")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_named_together_with_the_checkpoint_before_it(
    name: str, keep: float, tmp_path: Path
) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path / "last", saved(step, ema=True))
    path = tmp_path / "last" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError, match=rf"{name} is cut short or .*before it is .*last\.old"):
        read_checkpoint(tmp_path / "last")


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_changed_byte_is_noticed(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last", saved(1))
    path = tmp_path / "last" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} .*was changed"):
        read_checkpoint(tmp_path / "last")


def test_files_of_different_steps_are_not_read_as_one_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path / str(step), saved(step))
    shutil.copy(tmp_path / "1" / "model.safetensors", tmp_path / "2" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors .*was changed"):
        read_checkpoint(tmp_path / "2")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last", saved(1))
    (tmp_path / "last" / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        read_checkpoint(tmp_path / "last")


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"format": "another", "version": 1}', "hello"])
def test_a_foreign_folder_is_refused(manifest: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a checkpoint of spimm: it has no manifest\.json"):
        read_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=r"manifest\.json is (cut short or is )?not"):
        read_checkpoint(tmp_path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "spimm-checkpoint", "version": 99}')
    with pytest.raises(CheckpointError, match="format version 99"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 64, b"PK\x03\x04junk", bytes(range(256))])
def test_damaged_or_foreign_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last", saved(1))
    (tmp_path / "last" / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_weights(TinyNet(), tmp_path / "last")


def test_weights_load_from_a_file_and_from_a_checkpoint_folder(tmp_path: Path) -> None:
    source, target = TinyNet(), TinyNet()
    source.head.weight.data.fill_(0.25)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors")
    assert torch.equal(target.head.weight, source.head.weight)
    average = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    average["head.weight"].fill_(0.5)
    write_checkpoint(tmp_path / "last", Checkpoint(model=source.state_dict(), ema=average, state={}))
    load_weights(target, tmp_path / "last")
    assert target.head.weight.unique().item() == 0.5


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in ("nowhere.safetensors", "empty"):
        with pytest.raises(FileNotFoundError, match=path):
            load_weights(TinyNet(), tmp_path / path)


def test_weights_of_another_model_are_refused_with_every_difference_and_nothing_loaded(tmp_path: Path) -> None:
    model = TinyNet()
    tensors = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    tensors["head.weight"] = torch.zeros(5, 6)
    tensors["neck.weight"] = tensors.pop("conv.weight")
    write_checkpoint(tmp_path / "last", Checkpoint(model=tensors, state={}))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"does not fit TinyNet") as caught:
        load_weights(model, tmp_path / "last")
    assert all(name in str(caught.value) for name in ("conv.weight", "neck.weight", "head.weight", "(5, 6)", "(3, 6)"))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
