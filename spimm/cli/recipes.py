"""`spimm recipes`: what can be trained by name, what it should reach and what it costs."""

import json
from typing import Annotated

import tyro
from rich.table import Table

from spimm.cli.console import wide_console
from spimm.train import list_recipes, load_recipe, recipe_facts
from spimm.train.overrides import nearest


def recipes(
    pattern: Annotated[str, tyro.conf.Positional] = "*",
    as_json: Annotated[bool, tyro.conf.arg(aliases=["--json"])] = False,
) -> None:
    """List the recipes whose name matches a pattern; 'spimm train RECIPE --dry-run' plans one for this machine.

    Args:
        pattern: shell-style, e.g. 'qkformer_*'.
        as_json: print JSON.
    """
    names = list_recipes(pattern)
    if not names:
        near = nearest(pattern.strip("*?"), list_recipes(), rest="spimm recipes")
        raise ValueError(f"no recipe matches {pattern!r}; {near}")
    rows = []
    for name in names:
        recipe, facts = load_recipe(name), recipe_facts(name)
        about = {"name": name, "model": recipe.model, "data": recipe.data, "epochs": recipe.total_epochs}
        rows.append({**about, "expected": facts.expected, "cost": facts.cost, "source": facts.source})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0], box=None, padding=(0, 2, 0, 0))
    table.columns[0].no_wrap, table.columns[3].justify = True, "right"
    for row in rows:
        table.add_row(*map(str, row.values()))
    wide_console().print(table)
