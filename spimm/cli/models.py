"""`spimm models`: what there is."""

from typing import Annotated

import tyro
from rich.table import Table

from spimm.cli.console import wide_console
from spimm.models import list_models, model_card
from spimm.models.pretrained import shipped
from spimm.train.overrides import nearest


def models(pattern: Annotated[str, tyro.conf.Positional] = "*") -> None:
    """List the models whose name matches a pattern, with the test accuracy of weights that ship (--pretrained).

    Args:
        pattern: shell-style, e.g. 'qkformer*cifar'.
    """
    names = list_models(pattern)
    if not names:
        near = nearest(pattern.strip("*?"), list_models(), rest="spimm models")
        raise ValueError(f"no model matches {pattern!r}; {near}")
    table = Table("model", "parameters", "input C x H x W", "T", "classes", "recipe", "weights", "note", box=None)
    for column in (1, 3, 4):
        table.columns[column].justify = "right"
    trained = {name: f"{weights.top1:.2f} % {weights.data}" for name, weights in shipped().items()}
    for name in names:
        card = model_card(name)
        size = " x ".join(map(str, card.input_size))
        facts = (f"{card.params:,}", size, card.num_steps, card.num_classes, card.recipe or "-", trained.get(name, "-"))
        table.add_row(name, *map(str, facts), card.note)
    wide_console().print(table)
