"""Tables 1 and 2 of SpikeAtConv in miniature, from the logs in results/spk_tables: `python docs/spk_tables.py`.

Prints the table of docs/results/README.md and rank correlations with the paper's accuracies.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from scipy.stats import spearmanr

from spimm.models.resnet import TABLES

RUNS = Path(__file__).parent / "results" / "spk_tables" / "runs.jsonl"
Accuracies = dict[str, list[float]]


def accuracies(*, decay_input: bool) -> Accuracies:
    """Top-1 in % after the last epoch, of each row and seed that was run."""
    last: dict[tuple[str, int], float] = {}
    for line in map(json.loads, RUNS.read_text().splitlines()):
        if line["kind"] == "epoch" and line["decay_input"] == decay_input:
            last[line["row"], line["seed"]] = line["top1"]
    found = defaultdict(list)
    for (row, _), top1 in sorted(last.items()):
        found[row].append(top1)
    return found


def table(decayed: Accuracies, whole: Accuracies) -> Iterable[str]:
    """Lines of markdown, a row for each row of the paper's tables that was run."""
    yield "| row | table | options | paper | ours, seeds | mean | without input decay |"
    yield "|---|---:|---|---:|---|---:|---:|"
    for name, row in TABLES.items():
        if name in decayed:
            options = ", ".join(f"{key}={value}" for key, value in row.options.items())
            seeds = ", ".join(f"{top1:.2f}" for top1 in decayed[name])
            other = f"{mean(whole[name]):.2f}" if name in whole else ""
            yield f"| {name} | {row.table} | {options} | {row.top1} | {seeds} | {mean(decayed[name]):.2f} | {other} |"


def correlation(found: Accuracies, rows: Iterable[str]) -> str:
    """Spearman's rank correlation of our means with the paper's accuracies, over those rows that were run."""
    rows = [row for row in rows if row in found]
    rho = spearmanr([TABLES[row].top1 for row in rows], [mean(found[row]) for row in rows])[0]
    return f"{rho:.2f} over {len(rows)} rows"


def main() -> None:
    decayed, whole = accuracies(decay_input=True), accuracies(decay_input=False)
    print(*table(decayed, whole), sep="\n")
    spiking, no_collapse = set(TABLES) - {"ann"}, set(TABLES) - {"mbpl8_t2"}
    for label, found in (("ours", decayed), ("without input decay", whole | {"ann": decayed["ann"]})):
        print(
            f"\nSpearman's rho, {label}: {correlation(found, TABLES)}; spiking {correlation(found, spiking)};", end=" "
        )
        print(f"without mbpl8_t2 {correlation(found, no_collapse)}")


if __name__ == "__main__":
    main()
