"""Every command of docs/guide.md runs, on a few small files."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from spimm.cli.main import main
from spimm.data import Recording, save_recording

from .test_docs import ROOT, blocks

COMMANDS = "".join(blocks("sh", (ROOT / "docs" / "guide.md").read_text(encoding="utf-8"))).splitlines()
# Settings that make a run short, behind the command's own.
SHORT = ["epochs=1", "batch_size=4", "num_workers=0", "warmup_epochs=0", "tensorboard=false", "precision=fp32"]


def images(root: Path, names: tuple[str, ...]) -> None:
    random = np.random.RandomState(0)
    for part in ("train", "val"):
        for name in names:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = random.randint(256, size=(40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")


def recordings(root: Path, names: tuple[str, ...]) -> None:
    random = np.random.RandomState(0)
    for part in ("train", "val"):
        for name in names:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(4):
                x, y, t, p = (random.randint(high, size=500) for high in (34, 34, 300_000, 2))
                save_recording(folder / f"{index}.npz", Recording(x, y, np.sort(t), p, height=34, width=34))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands run, one after another, as a reader would run them."""
    root = tmp_path_factory.mktemp("guide")
    images(root / "photos", ("cat", "dog"))
    recordings(root / "captures", ("left", "right"))
    teacher = timm.create_model("resnet18", num_classes=2)
    save_file(teacher.state_dict(), root / "teacher.safetensors")
    return root


def test_the_guide_has_commands_of_each_kind():
    assert len(COMMANDS) >= 9 and all(command.startswith("spimm ") for command in COMMANDS)
    text = "\n".join(COMMANDS)
    for part in ("data=folder:", "data=recordings:", "num_steps=4", "teacher=", "--dry-run", "init_from="):
        assert part in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SPIMM_CACHE", str(folder / "cache"))
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    words = shlex.split(command)[1:]
    if words[0] == "train":
        settings = [word for word in words[2:] if "=" in word]
        words = [*words[:2], *settings, *SHORT, *words[2 + len(settings) :]]
    torch.manual_seed(0)
    assert main(words) == 0
    out = re.search(r"--out (\S+)", command)
    assert out is None or (folder / out[1]).is_dir()
    assert capsys.readouterr().out
