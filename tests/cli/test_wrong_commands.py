"""Every wrong command ends with status 2 and an error of three short lines at most, whatever is wrong."""

import shlex
from pathlib import Path

import pytest

from spimm.cli.main import main
from spimm.cli.parsing import shortened
from spimm.train import Recipe, apply_overrides, list_recipes, load_recipe

NET = "--model qkformer_3_64_digits"
OPTIONS = (
    *(
        "num_classes=3",
        "in_chans=1",
        "pretrained=true",
        "name=x",
        "features_only=true",
        "num_steps=abc",
        "num_steps=1.5",
        "num_steps=100000000000000000000",
    ),
    *("num_steps=true", "num_steps=0", "tau=abc", "tau=true", "tau=-1", "surrogate=nope", "surrogate=3", "neuron=3"),
    *("neuron=lief", "detach_reset=maybe", "memory=none", "nothing=3", "attention=3", "num_heads=x", "mlp_ratio=x"),
    *("checkpoint=7", "embed_dim=1.5", "depths=x"),
)
SETTINGS = (
    *(
        "epoch=3",
        "zzzzqqq=3",
        "epochs",
        "epochs=",
        "epochs=x",
        "epochs=0",
        "epochs=-1",
        "epochs=1.5",
        "seed=9223372036854775808",
        "num_workers=1000000",
        "device=meta",
        "lr=abc",
        "lr=nan",
    ),
    *("betas=1", "betas=a,b", "milestones=1,2", "augment.flip=3", "augment.nothing=3", "augment=1", "model_options=3"),
    *(
        "model=nope",
        "data=nope",
        "data=npz:",
        "data=npz:file.txt",
        "data=npz:bad.npz",
        "data=npz:empty",
        "image_size=0",
    ),
    *("data=folder:empty", "data=folder:file.txt", "data=folder:bare", "data=imagefolder", "frames=2", "image_size=x"),
    *("batch_size=100000", "val_share=2", "val_share=0.99999", "fold=9", "device=nope", "init_from=nowhere"),
    *("init_from=file.txt", "init_from=empty", "init_from=bad.safetensors", "teacher=nope", "warmup_epochs=99"),
    *("data=mnist --data-dir empty", "data=mnist --data-dir file.txt", "--resume nowhere", "--resume file.txt"),
    *(
        "--resume empty",
        "--nothing",
        "--processes 0 --dry-run",
        "--processes 2",
        "--probe 0 --dry-run",
        "--out file.txt",
    ),
    *(
        "--probe x --dry-run",
        "data=events:bad.npz frames=2 model_options.num_steps=2",
        "data=cifar10 --data-dir nowhere",
    ),
    *("data=recordings:empty frames=2 model_options.num_steps=2", "data=har-dvs frames=4 --data-dir empty"),
)
COMMANDS = (
    *("", "nonsense", "train", "train digit", "train images", "eval", "eval nowhere", "eval empty", "eval file.txt"),
    *("eval broken", "eval list", "eval wrong", "eval typed", "eval --model nope", f"eval {NET} --weights nowhere"),
    *(f"eval {NET} --weights {name}" for name in ("empty", "file.txt", "bad.safetensors")),
    *(f"eval {NET} {rest}" for rest in ("--data nope", "--batch-size 0", "--batch-size x", "--num-steps 0")),
    *(
        f"eval {NET} {rest}"
        for rest in ("--options nothing", "--options num_classes=3", "--options tau=x", "--bits 99")
    ),
    *(f"eval {NET} {rest}" for rest in ("--stepwise 0.1", "--event-driven", "--precision fp99", "--image-size 0")),
    *(f"eval {NET} {rest}" for rest in ("--crop-fraction 0", "--pretrained", "--data folder:bare", "--num-steps x")),
    *("analyze", "analyze nowhere", "analyze empty", f"analyze {NET} --images 0", f"analyze {NET} --images x"),
    *(
        "simulate",
        "simulate nowhere",
        "simulate --trace nowhere",
        "simulate --trace file.txt",
        "simulate --trace empty",
    ),
    *("simulate --trace list/recipe.json", f"simulate {NET} --mesh axb", f"simulate {NET} --placement nope"),
    *(
        f"simulate {NET} --hop-pj -1",
        "models nothing*",
        "models --nothing",
        "recipes nothing*",
        "info more",
        "bench nope",
    ),
    *(
        "bench --table nowhere",
        "bench --table file.txt",
        "bench --table empty",
        "bench --into x.md",
        "bench lif --threads x",
    ),
    *("reproduce nope", "reproduce nope/nope x=1", "reproduce --record nowhere", "reproduce --record empty"),
    *("reproduce --table nowhere", "reproduce --into x.md", "reproduce --name x", "reproduce ttfs/mnist/cnn lr=x"),
    *("reproduce ttfs/mnist/cnn model=other", "reproduce a b", "quickstart lr=x", "quickstart --out file.txt"),
    *(f"train digits {setting}" for setting in SETTINGS),
    *(f"train digits model_options.{option}" for option in OPTIONS),
)

FRAMED = """╭─ Value error ──╮
│ Error parsing  │
│ --bits: no INT.│
│                │
│ Got errors:    │
│ - int          │
│ ────────────── │
│ For full help  │
╰────────────────╯
"""
UNDERLINED = """ Value error
 ------------------
  Error parsing
  --bits: no INT.
  ------------------
  For full help
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of files that are not what commands look for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    for folder in ("empty", "bare/train/a", "bare/val/a", "broken", "list", "wrong", "typed"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "file.txt").write_text("no JSON {")
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4junk")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    recipes = {
        "broken": "{",
        "list": "[1]",
        "wrong": '{"model": 3, "data": null}',
        "typed": '{"model": "m", "data": "d", "epochs": "x"}',
    }
    for folder, recipe in recipes.items():
        (tmp_path / folder / "recipe.json").write_text(recipe)
        (tmp_path / folder / "data.json").write_text("[]")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_is_answered_in_three_lines_at_most(command: str, place: None, capsys) -> None:
    try:
        status = main(shlex.split(command))
    except SystemExit as end:  # of what cannot be parsed
        status = end.code
    error = capsys.readouterr().err.strip()
    lines = [line for line in error.splitlines() if not line.startswith("spimm.")]  # those are said, not wrong
    assert status == 2
    assert 1 <= len(lines) <= 3 and lines[0].startswith("spimm: error: ") and len(lines[0]) > len("spimm: error: ") + 10
    assert max(map(len, lines)) < 450
    assert "dummy" not in error and "Recipe(" not in error


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_every_recipe_is_trained_for_a_few_epochs(epochs: int, caplog: pytest.LogCaptureFixture) -> None:
    for name in list_recipes():
        recipe = load_recipe(name)
        caplog.clear()
        short = apply_overrides(recipe, [f"epochs={epochs}"])
        assert short.epochs == epochs and short.warmup_epochs <= epochs
        changed = [key for key in ("warmup_epochs", "milestones") if getattr(short, key) != getattr(recipe, key)]
        assert [record.getMessage().split()[0] for record in caplog.records] == changed, name


def test_what_is_shortened_is_in_proportion_and_what_is_given_stays() -> None:
    recipe = Recipe(model="m", data="d", epochs=100, warmup_epochs=20)
    assert apply_overrides(recipe, ["epochs=20"]).warmup_epochs == 20  # it fits
    assert apply_overrides(recipe, ["epochs=10"]).warmup_epochs == 2
    with pytest.raises(ValueError, match="warmup_epochs must be at most epochs=10, got 15"):
        apply_overrides(recipe, ["epochs=10", "warmup_epochs=15"])
    steps = Recipe(model="m", data="d", epochs=100, schedule="milestones", milestones=(50, 75))
    assert apply_overrides(steps, ["epochs=20"]).milestones == (10, 15)
    assert apply_overrides(steps, ["epochs=200"]).milestones == (50, 75)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (FRAMED, "Error parsing --bits: no INT."),
        (UNDERLINED, "Error parsing --bits: no INT."),
    ],
)
def test_what_is_framed_in_any_console_is_cut_to_what_is_wrong(frame: str, expected: str) -> None:
    assert shortened(frame, "eval") == f"spimm: error: {expected}\nhelp: spimm eval --help"
