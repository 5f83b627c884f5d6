"""A recipe trained twice from the same weights on the same batches: by us, and on SpikingJelly's neurons.

`SPIMM_DATA=FOLDER python benchmarks/train_twin.py RECIPE [key=value ...] --seeds 0 1 2 --out FOLDER` writes a folder
for each seed and side, and `twin.json`: last accuracies, seconds of training and evaluation. The recipe's
model is a QKFormer whose patch embeddings have two units. Sides take turns, seed by seed, so that both meet the same
machine.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import spimm
from spimm import train
from spimm.bench.peers.qkformer import PeerQKFormer
from spimm.files import write_text
from spimm.train.seeding import seed_everything


def run(recipe: train.Recipe, side: str, out: Path, data: Any) -> dict[str, Any]:
    """One training from the weights that `recipe.seed` gives our model."""
    seed_everything(recipe.seed)
    ours = train.build_model(recipe, data)
    model: nn.Module = ours
    if side == "spikingjelly":
        model = PeerQKFormer(ours.config)
        model.load(ours.state_dict())
    started = time.perf_counter()
    result = train.train(recipe, out, data=data, model=model)
    seconds = time.perf_counter() - started
    return {"seed": recipe.seed, "side": side, "top1": result.metrics["top1"], "seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("changes", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = train.apply_overrides(train.load_recipe(options.recipe), options.changes)
    data = train.build_data(recipe)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "spimm": spimm.__version__}
    runs = []
    for seed in options.seeds:
        for side in ("spimm", "spikingjelly"):
            runs.append(run(replace(recipe, seed=seed), side, options.out / f"{side}_seed{seed}", data))
            print(json.dumps(runs[-1]), flush=True)
            write_text(
                options.out / "twin.json", json.dumps({**about, "recipe": recipe.to_json(), "runs": runs}, indent=2)
            )


if __name__ == "__main__":
    main()
