"""The page on event cameras says what the code does."""

import ast
import inspect
import re
import runpy
from dataclasses import fields
from itertools import pairwise
from typing import Any, get_args

import numpy as np

from spimm.data import Augment, list_data, load_data, read_recording, simulate_events
from spimm.data.digits_dvs import SIDE, digit_recordings
from spimm.data.formats import READERS
from spimm.data.formats.read import Truncated
from spimm.data.frames import Framing
from spimm.data.mend import Bounds, Order
from spimm.data.registry import EVENTS
from spimm.train import apply_overrides, load_recipe

from .test_docs import ROOT, blocks

PAGE = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_column(title: str) -> list[str]:
    return re.findall(r"^\| `([\w:-]+)` \|", section(title), flags=re.MULTILINE)


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(blocks("python", PAGE)[0], {})
    facts, frames, sequence = capsys.readouterr().out.splitlines()
    events, duration, *sensor = map(int, facts.split())
    assert events > 1000 and 90_000 < duration <= 100_000 and sensor == [24, 32]
    assert frames == "(24, 32, 4, 2)"
    assert sequence == "torch.Size([4, 2, 24, 32]) ('slow', 'fast')"


def test_every_format_that_can_be_read_is_in_the_table():
    assert first_column("Files") == list(READERS)


def test_every_choice_for_wrong_files_is_in_the_table():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section("What can be wrong with a file"), flags=re.MULTILINE))
    assert list(rows) == ["truncated", "out_of_order", "out_of_bounds", "stream"]
    for name, kind in (("truncated", Truncated), ("out_of_order", Order), ("out_of_bounds", Bounds)):
        assert re.findall(r"`(\w+)`", rows[name]) == list(get_args(kind))
    assert rows.keys() - {"truncated"} <= inspect.signature(load_data).parameters.keys()
    assert rows.keys() <= inspect.signature(read_recording).parameters.keys()


def test_every_framing_is_in_the_table():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section("Frames"), flags=re.MULTILINE))
    assert rows.keys() | {"bin_size", "tau"} == {field.name for field in fields(Framing)}
    for setting, needs in (("bins", {"bin_size": 5}), ("representation", {})):
        choices = [name for name in re.findall(r"`(\w+)`", rows[setting]) if name != "bin_size"]
        assert len(choices) == {"bins": 4, "representation": 3}[setting]
        for name in choices:
            settings: dict[str, Any] = {setting: name, **(needs if name in ("duration", "events") else {})}
            assert getattr(Framing(4, **settings), setting) == name


def test_every_event_set_is_in_the_table():
    names = first_column("Data sets")
    assert {name.partition(":")[0] for name in names} == set(EVENTS)
    assert set(names) <= set(list_data())


def test_what_is_said_of_the_moving_digits_is_so():
    recordings = digit_recordings()
    assert f"{len(recordings)} moving digits" in PAGE
    assert f"{SIDE}x{SIDE}" in PAGE
    assert f"{sum(map(len, recordings)) / len(recordings):.0f} events each on average" in PAGE


def test_settings_of_the_simulator_have_their_defaults():
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section("Simulated events"), flags=re.MULTILINE)
    parameters = inspect.signature(simulate_events).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name not in ("frames", "times")}
    assert {name: ast.literal_eval(value) for name, value in rows} == defaults


def test_augmentations_are_settings_of_a_recipe():
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section("Augmentation"), flags=re.MULTILINE)
    assert len(rows) == 8
    for name, example in rows:
        recipe = apply_overrides(load_recipe("digits_dvs"), [example])
        assert getattr(recipe.augment, name) != getattr(Augment(), name)


def test_figures_are_those_that_the_script_draws():
    script = runpy.run_path(str(ROOT / "docs" / "events_figures.py"))
    shown = re.findall(r"!\[.+\]\(figures/(\w+)\.png\)", PAGE)
    assert sorted(shown) == sorted(script["FIGURES"])
    assert len(script["simulator"]().axes) == 1
    assert len(script["digits"]().axes) == 32


def test_windows_of_a_recording_are_cut_one_after_another_and_the_first_train():
    script = runpy.run_path(str(ROOT / "docs" / "gesture_windows.py"))
    recordings = digit_recordings()[:2]
    (train, train_labels), (test, test_labels) = script["cut"](recordings, [4, 7], length=50_000, train=0.5)
    assert train_labels == [4] * 2 + [7] * 2 and test_labels == [4] * 3 + [7] * 3
    first, second = train[:2] + test[:3], train[2:] + test[3:]
    for windows, recording in zip((first, second), recordings, strict=True):
        assert all(before.t[-1] < after.t[0] for before, after in pairwise(windows))
        assert sum(map(len, windows)) == int(np.searchsorted(recording.t, recording.t[0] + 250_000))
