"""A recipe trained twice from the same weights on the same batches: by us, and on SpikingJelly's neurons.

`SPIMM_DATA=FOLDER python benchmarks/train_twin.py RECIPE [key=value ...] --seeds 0 1 2 --out FOLDER` writes a folder
for each seed and side, and `twin.json`: last accuracies, seconds of training and evaluation, and of both sides the mean
accuracy, its standard deviation and the ratio of times. The recipe's model is a QKFormer whose patch embeddings have
two units. Sides take turns, seed by seed, so that both meet the same machine.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

from spimm import train
from spimm.bench.environment import hardware, versions
from spimm.bench.peers.qkformer import PeerQKFormer
from spimm.files import write_text
from spimm.train.seeding import seed_everything

SIDES = ("spimm", "spikingjelly")


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


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of seeds that both sides have run: top-1 in %, and how many times longer the other side took."""
    by_side = [[run for run in runs if run["side"] == side] for side in SIDES]
    pairs = list(zip(*by_side, strict=False))
    top1 = {side: [pair[i]["top1"] for pair in pairs] for i, side in enumerate(SIDES)}
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
    return {
        "top1": {side: round(mean(values), 2) for side, values in top1.items()},
        "spread": {side: round(stdev(values), 2) for side, values in top1.items() if len(values) > 1},
        "time_ratio": round(mean(ratios), 2),
        "time_ratios": [round(ratio, 2) for ratio in ratios],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("changes", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = train.apply_overrides(train.load_recipe(options.recipe), options.changes)
    data = train.build_data(recipe)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": versions(peers=True),
        "recipe": recipe.to_json(),
    }
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        for side in SIDES:
            runs.append(run(replace(recipe, seed=seed), side, options.out / f"{side}_seed{seed}", data))
            print(json.dumps(runs[-1]), flush=True)
        report = {**about, **summary(runs), "runs": runs}
        write_text(options.out / "twin.json", json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
