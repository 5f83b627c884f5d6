"""k-fold cross-validation: a data set whose test part is one of k equal shares of all its images."""

from dataclasses import replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from spimm.data.dataset import ImageData
from spimm.data.files import ImageFiles
from spimm.data.split import ImageSplit


def stratified_fold(labels: np.ndarray, *, fold: int, folds: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted (train, test) indices of fold `fold` in [0, folds): every index is in the test part of exactly one fold.

    Fold sizes, and the images of each class in them, differ by at most one. The same on every platform and numpy
    version.
    """
    if not 2 <= folds <= len(labels):
        raise ValueError(f"folds must lie in [2, {len(labels)}] for {len(labels)} images, got {folds}")
    if not 0 <= fold < folds:
        raise ValueError(f"fold must lie in [0, {folds}), got {fold}")
    # RandomState, because its stream is frozen for good (NEP 19) and a split has to last.
    random = np.random.RandomState(0)
    order = np.concatenate([random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[order[fold::folds]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def take_fold(data: ImageData, *, fold: int, folds: int) -> ImageData:
    """`data` with all its images, train, test, then val, split anew by `stratified_fold`; mean and std as they are."""
    parts = list(data.parts.values())
    labels = torch.cat([part.labels for part in parts])
    whole = ImageSplit(reduce(_joined, (part.images for part in parts)), labels)
    train, test = (whole.subset(part) for part in stratified_fold(labels.numpy(), fold=fold, folds=folds))
    note = f"{data.note}; then all images in {folds} stratified folds, test = fold {fold}"
    return replace(data, train=train, test=test, val=None, note=note)


def _joined(first: Tensor | ImageFiles, second: Tensor | ImageFiles) -> Tensor | ImageFiles:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])
    assert isinstance(first, ImageFiles) and isinstance(second, ImageFiles)
    return replace(first, paths=first.paths + second.paths)
