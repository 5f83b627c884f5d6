"""The teacher of a distillation: a timm model with trained weights, frozen by the task that takes it."""

import timm
from torch import nn

from spimm.models import load_weights


def build_teacher(name: str, weights: str | None, *, num_classes: int, in_chans: int) -> nn.Module:
    """The timm model `name` with the weights of a .safetensors file in timm's format, or timm's pretrained ones (None).

    In training it sees the student's batches, normalised as the student wants them. ValueError for an unknown
    name, for weights that do not fit and for a teacher of other classes; FileNotFoundError where they cannot be had.
    """
    if not timm.is_model(name):
        raise ValueError(f"teacher must be the name of a timm model, got {name!r}; timm.list_models() has them all")
    if weights is not None:
        teacher = timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
        load_weights(teacher, weights)
        return teacher
    teacher = _pretrained(name, in_chans)
    if teacher.num_classes != num_classes:
        raise ValueError(
            f"teacher {name!r} knows {teacher.num_classes} classes, the data has {num_classes}: "
            "teacher_weights=FILE takes one that was trained on them"
        )
    return teacher


def _pretrained(name: str, in_chans: int) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True, in_chans=in_chans)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"timm's weights of teacher {name!r} cannot be had ({error}): teacher_weights=FILE takes those of a file"
        ) from error
