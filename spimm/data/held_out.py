"""Images held out from training, by class and seed: they choose the best epoch; test images never do."""

from dataclasses import replace

import numpy as np

from spimm.data.dataset import ImageData
from spimm.data.static import stratified_split


def hold_out(data: ImageData, share: float, seed: int | None = None) -> ImageData:
    """`data` with `share` of its training images moved to `val`; its test images stay as they are.

    seed: None is 0. ValueError for data that has a `val` part, and for a share of which no image is held out or left.
    """
    if data.val is not None:
        raise ValueError(f"{data.name} has {len(data.val)} images in a val part of its own, got val_share={share}")
    kept, held = held_out_split(data.train.labels.numpy(), share, seed)
    note = f"{data.note}; {len(held)} of its training images held out, {share_text(share, seed)}"
    return replace(data, train=data.train.subset(kept), val=data.train.subset(held), note=note)


def held_out_split(labels: np.ndarray, share: float, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sorted (kept, held out) indices; the share of every class to within one image, of which one at least is kept."""
    if not 0 < share < 1:
        raise ValueError(f"val_share must lie between 0 and 1, got {share}")
    kept, held = stratified_split(labels, train_fraction=1 - share, seed=seed or 0)
    without = np.setdiff1d(labels, labels[kept])
    back = [held[labels[held] == label][0] for label in without]
    kept, held = np.sort(np.append(kept, back)).astype(np.int64), np.setdiff1d(held, back)
    if not len(held):
        raise ValueError(f"val_share={share} of {len(labels)} images holds out none: give a larger share")
    return kept, held


def share_text(share: float, seed: int | None) -> str:
    """What a note says of a share."""
    return f"stratified, val_share={share:g}, split_seed={seed or 0}"
