"""The page on DTA-TTFS says what the code does."""

import ast
import math
import re
import runpy
from dataclasses import fields

import torch

import spimm
from spimm.analyze import PUBLISHED_CODINGS, SPINNAKER, TRUENORTH, record
from spimm.models.settings import ImageConfig
from spimm.models.ttfs import TTFSConfig
from spimm.train import list_recipes

from .test_docs import ROOT, blocks

PAGE = (ROOT / "docs" / "ttfs.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    exec(blocks("python", PAGE)[0], {})
    shape, sparsity, stepwise, operations = capsys.readouterr().out.splitlines()
    assert shape == stepwise == "torch.Size([2, 10])"
    assert 0 < float(sparsity) < 1 and operations.startswith("tensor([")


def test_every_option_is_there_with_its_default_and_builds_a_network():
    defaults = {field.name: field.default for field in fields(TTFSConfig)}
    words = {"VGG11's": defaults["convs"], "no limit": math.inf}
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.+?)`|(.+?)) \| `(\w+=.*?)` \|", PAGE, flags=re.MULTILINE)
    assert {option for option, *_ in rows} == defaults.keys() - {field.name for field in fields(ImageConfig)}
    for option, literal, described, example in rows:
        assert defaults[option] == (ast.literal_eval(literal) if literal else words[described]), option
        call = ast.parse(f"dict({example})", mode="eval").body
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        with torch.device("meta"):
            config = spimm.create_model("ttfs_vgg11", **options).config
        assert getattr(config, option) == options[option] != defaults[option], option


@torch.no_grad()
def test_networks_have_as_many_neurons_as_the_page_says():
    rows = re.findall(r"^\| `(ttfs_\w+)` \| .+? \| ([\d,]+) \| ", PAGE, flags=re.MULTILINE)
    assert {name for name, _ in rows} == {name for name in spimm.list_models("ttfs_*") if not name.endswith("_ann")}
    for name, count in rows:
        model = spimm.create_model(name)
        with record(model) as recorder:
            model(torch.rand(1, *spimm.model_card(name).input_size))
        neurons = (layer for layer in recorder.trace().layers if layer.kind == "neuron")
        assert f"{sum(math.prod(layer.output_shape) for layer in neurons):,}" == count


def test_recipes_on_the_page_exist():
    named = set(re.findall(r"\bttfs_(?:mnist|vgg\d+)(?:_[a-z0-9]+)*\b", PAGE.split("## Training")[1]))
    assert len(named) >= 6 and named <= set(list_recipes())


def test_energies_of_eq_11_are_recomputed():
    rows = re.findall(r"^\| ([\w-]+) \| (\d+) \| ([\d.]+) \| ([\d. |]+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == len(PUBLISHED_CODINGS)
    for (name, steps, spikes, energies), row in zip(rows, PUBLISHED_CODINGS, strict=True):
        assert (name, int(steps), float(spikes) * 1e6) == (row.cost.name, row.cost.steps, row.cost.spikes)
        ours = [f"{row.cost.energy(platform):.4f}" for platform in (TRUENORTH, SPINNAKER)]
        first, printed_first, second, printed_second = energies.split(" | ")
        assert [first, second] == ours
        assert (float(printed_first), float(printed_second)) == (row.truenorth, row.spinnaker)


def test_figures_are_those_that_the_script_draws_of_any_network():
    script = runpy.run_path(str(ROOT / "docs" / "ttfs_figures.py"))
    assert re.findall(r"!\[.+\]\(figures/(\w+)\.png\)", PAGE) == list(script["FIGURES"])
    torch.manual_seed(0)
    model = spimm.create_model("ttfs_vgg11", image_size=8, convs="4,M,6", hidden="7").eval()
    subject = script["Subject"]("net", model, [torch.randn(3, 3, 8, 8)])
    drawn = {name: draw(subject) for name, draw in script["FIGURES"].items()}
    panels = {name: sum(axes.get_visible() for axes in figure.axes) for name, figure in drawn.items()}
    assert panels == {"ttfs_neurons": 3, "ttfs_spike_times": 3, "ttfs_raster": 2, "ttfs_inactive": 1}
    bars = [[bar.get_height() for bar in bars] for bars in drawn["ttfs_inactive"].axes[0].containers]
    assert len(bars) == 4
    assert all(late >= silent - 1e-9 for silent, late in zip(bars[2], bars[3], strict=True))
