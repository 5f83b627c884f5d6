"""The README's commands and examples, and those of the page on SpikeAtConv, are what they say they are."""

import ast
import json
import re
import runpy
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import spimm
from spimm.analyze import Layer, Trace
from spimm.bench import between_markers, list_cases, newest, render
from spimm.cli.main import COMMANDS
from spimm.hardware import EnergyCosts, TimeCosts, simulate
from spimm.layers import FORMS, THRESHOLDS
from spimm.models.spikeatconv import VARIANTS, SpikeAtConvConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_readme_names_two_set_up_commands_and_the_makefile_has_them():
    commands = re.findall(r"^(make \w+)", blocks("sh")[0], flags=re.MULTILINE)
    assert commands == ["make demo", "make test"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "runs"),
    [("demo", "spimm quickstart"), ("test", 'pytest -m "not slow" --numprocesses auto --dist loadfile')],
)
def test_each_set_up_command_makes_its_environment_and_ends_in_its_job(target, runs):
    command = ["make", "--no-print-directory", "-n", "-B", target]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"-m venv .venv/{target}" in plan
    assert plan.strip().splitlines()[-1].endswith(runs)


def test_the_gate_runs_the_readme_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_python_example_runs(capsys):
    exec(blocks("python")[0], {})
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[-1] == "[(2, 96, 32, 32), (2, 192, 16, 16), (2, 384, 8, 8)]"


def test_the_table_of_models_is_the_registry():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", README, flags=re.MULTILINE))
    assert rows == {name: f"{spimm.model_card(name).params:,}" for name in spimm.list_models()}


def test_every_command_is_in_the_readme_or_its_help():
    shown = set(re.findall(r"^spimm (\w+)", blocks("sh")[1], flags=re.MULTILINE))
    assert shown | {"quickstart"} == set(COMMANDS)


def test_the_benchmark_tables_are_made_of_the_records():
    """`spimm bench --table benchmarks/results --into README.md` brings them up to date."""
    assert between_markers(README) == render(newest(ROOT / "benchmarks" / "results"))


def test_the_time_of_the_twin_on_spikingjelly_is_the_measured_one():
    twin = json.loads((ROOT / "docs" / "results" / "cifar10_jpeg_twin" / "twin.json").read_text(encoding="utf-8"))
    assert f"in {twin['time_ratio']} times the time" in README


def test_every_benchmark_is_explained():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == {case.name for case in list_cases()}


SPIKEATCONV = (ROOT / "docs" / "spikeatconv.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page_on_spikeatconv_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = blocks("python", SPIKEATCONV)
    exec(first, {})
    assert capsys.readouterr().out == "torch.Size([2, 10])\n"
    exec(second, {})
    assert (tmp_path / "responses.png").read_bytes().startswith(b"\x89PNG")


def test_every_option_on_the_page_has_its_default_and_builds_a_network():
    defaults = {
        **{field.name: field.default for field in fields(SpikeAtConvConfig)},
        "thresholds": "the paper's",
        "taus": "tau for both",
        "form": "see above",
    }
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.+?)`|(.+?)) \| `(\w+=.+?)` \|", SPIKEATCONV, flags=re.MULTILINE)
    assert len(rows) == 14
    for option, literal, words, example in rows:
        assert defaults[option] == (ast.literal_eval(literal) if literal else words), option
        call = ast.parse(f"dict({example})", mode="eval").body
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        with torch.device("meta"):
            config = spimm.create_model("spikeatconv_cifar", **options).config
        assert getattr(config, option) == options[option] != defaults[option], option


def test_blocks_on_the_page_have_their_thresholds_and_readings():
    rows = re.findall(r"^\| `(\w+)` \| ([\d., ]+) \| [^|]+ \| (.+) \|$", SPIKEATCONV, flags=re.MULTILINE)
    assert {kind: tuple(map(float, values.split(", "))) for kind, values, _ in rows} == THRESHOLDS
    for kind, _, readings in rows:
        assert set(re.findall(r"`(\w+)`", readings)) == set(FORMS.get(kind, ())), kind
        if kind in FORMS:
            assert readings.startswith(f"`{FORMS[kind][0]}`"), kind


def test_parameters_on_the_page_are_those_of_the_networks():
    rows = re.findall(r"^\| (`spikeatconv_\w+`.*)\|$", SPIKEATCONV, flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {
        name for name in spimm.list_models() if re.fullmatch(r"spikeatconv_\w+_(table|text)", name)
    }
    for row in rows:
        names, _, squares, one, four, shared, _, printed, distance = (cell.strip() for cell in row.split("|")[:9])
        for name in re.findall(r"`(\w+)`", names):
            config = VARIANTS[name].config
            weights = 20 * sum(depth * width**2 for depth, width in zip(config.depths, config.widths, strict=True))
            assert f"{weights / 1e6:.2f}" == squares
            with torch.device("meta"):
                networks = [
                    spimm.create_model(name, **options)
                    for options in ({"form": "sum"}, {}, {"form": "sum", "attention": "bdsa"})
                ]
            counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
            assert [f"{count:,}" for count in counts] == [one, four, shared]
            assert f"{100 * (counts[0] / (float(printed) * 1e6) - 1):+.1f} %" == distance


def test_figures_of_the_page_are_those_that_its_script_draws():
    shown = re.findall(r"!\[.+\]\(figures/(\w+)\.png\)", SPIKEATCONV)
    script = runpy.run_path(str(ROOT / "docs" / "spk_figures.py"))
    assert shown == list(script["FIGURES"])


def test_every_figure_is_shown_on_a_page_and_small():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    files = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "figures").glob("*.png")}
    assert set(re.findall(r"!\[.+\]\((?:\.\./)?figures/(\w+)\.png\)", pages)) == set(files)
    assert max(files.values()) < 150_000


def test_figures_of_the_page_can_be_drawn():
    script = runpy.run_path(str(ROOT / "docs" / "spk_figures.py"))
    panels = {name: len(draw().axes) for name, draw in script["FIGURES"].items()}
    assert panels == {"spk_responses": 12, "spk_behind_attention": 4, "spk_branches": 8, "grid_attention": 12}


HARDWARE = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")


def test_the_example_of_the_page_on_hardware_runs(capsys):
    exec(blocks("python", HARDWARE)[0], {})
    assert float(capsys.readouterr().out.split()[0]) >= 3.52


def test_coefficients_on_the_page_are_the_defaults():
    rows = re.findall(r"^\| `--([\w-]+)` \| ([\d.]+) \|", HARDWARE, flags=re.MULTILINE)
    defaults = {**vars(EnergyCosts()), **vars(TimeCosts())}
    assert {name.replace("-", "_"): float(value) for name, value in rows} == defaults


def evenly_firing(*shapes: tuple[int, ...]) -> Trace:
    layers = (
        Layer(str(number), "neuron", shape, shape, 1, step_rates=(0.5,), channel_rates=(0.5,) * shape[0])
        for number, shape in enumerate(shapes)
    )
    return Trace("net", 1, 1, tuple(layers))


def test_hops_of_the_vggs_on_the_page_are_those_of_the_simulator():
    shapes = {
        "VGG11": "64x32 128x16 256x8 256x8 512x4 512x4 512x2 512x2 4096x1 4096x1 10x1",
        "VGG16": "64x32 64x32 128x16 128x16 256x8 256x8 256x8 512x4 512x4 512x4 512x2 512x2 512x2 4096x1 4096x1 10x1",
    }
    rows = re.findall(r"^\| (VGG\d+), (\d+x\d+) \| `(\w+)` \| ([\d. |]+) \|$", HARDWARE, flags=re.MULTILINE)
    assert len(rows) == 6
    for network, mesh, placement, numbers in rows:
        if placement != "hops":  # that search takes seconds
            sizes = [tuple(map(int, layer.split("x"))) for layer in shapes[network].split()]
            trace = evenly_firing(*((width, side, side) for width, side in sizes))
            both = [simulate(trace, placement=placement, delivery=delivery) for delivery in ("multicast", "unicast")]
            found = [both[0].hops_per_spike, both[1].hops_per_spike, both[0].traffic.mean_distance]
            assert str(both[0].mesh) == mesh
            assert [f"{number:.2f}" for number in found] == numbers.split(" | ")


def test_the_table_and_figure_of_the_page_on_hardware_can_be_made(tmp_path):
    script = runpy.run_path(str(ROOT / "docs" / "hardware_figures.py"))
    trace = script["trace_of"](evenly_firing((4,), (4,)).save(tmp_path / "trace.json"))
    assert len(list(script["table"](trace))) == 8
    assert len(script["draw"](trace).axes) == 2


def test_the_table_of_spk_blocks_is_made_of_the_runs():
    script = runpy.run_path(str(ROOT / "docs" / "spk_tables.py"))
    runs = [script["accuracies"](decay_input=decay) for decay in (True, False)]
    lines = list(script["table"](*runs))
    assert len(lines) > 12
    page = (ROOT / "docs" / "results" / "README.md").read_text()
    assert "\n".join(lines) in page
