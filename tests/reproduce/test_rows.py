import math
import re
from collections import Counter
from pathlib import Path

import pytest

from spimm.models import model_card
from spimm.reproduce import Row, find_row, list_rows
from spimm.reproduce.published import SYSTEMS
from spimm.reproduce.published.quoted import QUOTED
from spimm.reproduce.rows import show, show_printed
from spimm.train import list_recipes, recipe_facts
from spimm.train.plan import KNOWN

ROOT = Path(__file__).resolve().parents[2]
ROWS = list_rows()

# Every figure that the papers print of their own systems, by system and data, in the order of their tables.
PRINTED = {
    "metaspikeformer/imagenet": """
        71.8 4.0 15.1  74.1 16.7 15.1  75.4 7.8 31.3  77.2 32.8 31.3  78.0 55.4  79.7 55.4
        79.1 13.0 55.4  80.0 52.4 55.4
        31.3/7.8/75.4; 30.9/5.5/75.1 29.5; 25.9/6.3/73.4; 31.8/7.4/75.2; 27.2/6.0/75.0; 30.0/7.1/75.3; 31.3/7.2/74.6;
        28.6/6.3/74.2; 31.3/7.7/75.4; 31.3/-/no convergence; 31.3/7.8/73.5; 26.9/7.4/74.7; 36.0/2.9/72.5;
        26.2/5.4/71.7""",
    "metaspikeformer/hardvs": "18.3 47.5",
    "metaspikeformer/coco": "34.9 44.0 49.5  75.0 51.2 140.8  16.8 45.0 34.8  16.8 50.3 70.7",
    "metaspikeformer/ade20k": "16.5 32.3 22.1  16.5 33.6 88.1  58.9 34.8 46.6  58.9 35.3 183.6",
    "metaspikeformer/voc2012": "16.5 58.1  58.9 61.1",
    "qkformer/imagenet": """
        16.47 15.13 78.80  29.08 21.99 82.04  64.96 38.91 84.22  64.96 8.52 81.69  64.96 64.27 85.25
        64.96 113.64 85.65 97.74""",
    "qkformer/cifar10": "6.74 96.18",
    "qkformer/cifar100": """
        6.74 81.15; 80.08; 78.21; 80.26; 76.95; 81.07 6.74; 81.04 6.44; 81.23 6.79; 81.00 6.44; 79.09 6.44
        81.18; 80.95; 81.12; 81.17 1.3; 78.51 80.08 81.30
        .0432/.0231 .1784/.0847 .3477/.2655 .0832/.0350 .1478/.0577 .0518/.0246 .2733/.1869""",
    "qkformer/dvs128": "1.50 98.6  1.50 98.3",
    "qkformer/cifar10dvs": """
        1.50 84.0  1.50 83.8; 83.40; 80.90; 82.20; 79.30; 84.30 1.50; 83.10 1.44; 84.10 1.52; 80.70 1.44; 80.70 1.44""",
    "qkformer/module": "2.47/26.44 10.35/391.77 40.46/6143.06  1.82 3.62 1.33 2.72",
    "spikeatconv/cifar100": """
        75.4 64.3 66.0 67.1 70.9 70.4 71.0 74.4 70.6 70.3
        71.7 71.9 72.5 72.2 73.8 73.6 59.0""",
    "spikeatconv/imagenet": """
        74.91/91.94 78.35/93.73 78.44/93.75 77.66/93.83 77.63/93.63 81.13/94.30
        80.53/94.17 53.4 14.2  80.70/94.89 53.4 28.2  76.58/92.74 14.6 3.8  81.23/95.41 116.1 32.0""",
    "ttfs/mnist": "99.4 .3913",
    "ttfs/cifar10": "91.17 .4387 93.05 .2561 10",
    "ttfs/cifar100": "69.66 .2845",
    "ttfs/chip": "90.67 50.36 163.65 69.2 7.26",
    "ttfs/coding": """
        1 1 7.1476 9.6785 2.3781 2.4865 0.8074 0.4950 0.6478 0.3989 0.1987 0.1304""",
}


@pytest.mark.parametrize("group", PRINTED)
def test_every_printed_figure_is_in_a_row_and_no_other(group: str) -> None:
    ours = [row for row in ROWS if row.id.startswith(f"{group}/")]
    values = Counter(value for row in ours for value in row.figures.values() if value == value)
    assert values == Counter(map(float, re.findall(r"[\d.]+", PRINTED[group])))


def test_rows_have_ids_of_their_own_and_belong_to_the_four_systems() -> None:
    assert max(Counter(row.id for row in ROWS).values()) == 1
    assert {f"{row.system}/{row.data}" for row in ROWS} == set(PRINTED)
    assert set(SYSTEMS) == set(QUOTED) == {row.system for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_recipes_of_a_row_exist_and_what_is_missing_is_said(row: Row) -> None:
    for setup in (row.full, row.scaled):
        if setup is not None:
            recipe = setup.resolve()
            assert model_card(recipe.model).name == recipe.model
    assert row.full is not None or row.needs or not row.trained


@pytest.mark.parametrize("row", [row for row in ROWS if row.full is not None], ids=lambda row: row.id)
def test_the_recipe_of_a_row_expects_what_the_row_says(row: Row) -> None:
    assert row.full is not None and row.full.resolve().data in KNOWN
    expected = recipe_facts(row.full.recipe).expected
    if math.isnan(row.figures["top1"]):
        assert "not converge" in expected
    else:
        assert row.figures["top1"] in map(float, re.findall(r"\d+\.\d+", expected))


def test_every_recipe_of_a_published_result_has_a_row() -> None:
    published = {name for name in list_recipes() if recipe_facts(name).expected.startswith("published")}
    assert published <= {row.full.recipe for row in ROWS if row.full is not None}


@pytest.mark.parametrize("row", [row for row in ROWS if row.counts], ids=lambda row: row.id)
def test_what_is_counted_is_what_the_paper_prints(row: Row) -> None:
    for metric, count in row.counts.items():
        distance = abs(count.compute() / row.figures[metric] - 1)
        assert distance < (0.06 if row.system == "spikeatconv" else 0.006), metric
        file, _, name = count.test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_a_row_is_found_by_its_id_and_an_unknown_one_refused_with_the_nearest() -> None:
    assert find_row(ROWS, "ttfs/mnist/cnn").figures == {"top1": 99.4, "sparsity": 0.3913}
    with pytest.raises(ValueError, match="unknown row 'ttfs/mnist/cn'; nearest: ttfs/mnist/cnn"):
        find_row(ROWS, "ttfs/mnist/cn")
    with pytest.raises(ValueError, match="'spimm reproduce' lists them"):
        find_row(ROWS, "%")


def test_a_row_with_an_unknown_data_set_or_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="id is 'ttfs/moon/cnn'"):
        Row("ttfs/moon/cnn", "", "", {"top1": 1.0})
    with pytest.raises(ValueError, match=r"figures \['top2'\]"):
        Row("ttfs/mnist/cnn", "", "", {"top2": 1.0})


def test_figures_are_shown_with_their_units() -> None:
    assert (show("top1", 99.5), show("top1", 0.134, signed=True)) == ("99.50 %", "+0.13 %")
    assert (show("params", 15.112208), show("sparsity", -0.00001, signed=True)) == ("15.112 M", "+0")
    assert (show_printed("top1", float("nan")), show_printed("energy", 4.0)) == ("no convergence", "4 mJ")
