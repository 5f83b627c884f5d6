"""Weights on disk: safetensors files, written whole or not at all, loaded with every disagreement named."""

import functools
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spimm.files import write_whole
from spimm.manifest import check_listed

logger = logging.getLogger(__name__)
_LISTED = 3
_WRAPPERS = ("module.", "_orig_mod.", "model.", "state_dict.")
"""What DistributedDataParallel, torch.compile and nested checkpoints put before every name."""
_WITHIN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What wrappers of single modules put within names."""


def save_weights(model: nn.Module, path: str | Path) -> Path:
    """Writes the state dict of the model to a safetensors file, by way of a temporary name. Returns the path."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    return write_whole(path, lambda unfinished: save_file(tensors, unfinished))


def load_weights(model: nn.Module, path: str | Path, *, new_head: bool = False) -> None:
    """Fills the model from a safetensors file; names and `new_head` as for `load_state`.

    Raises FileNotFoundError, or ValueError for a truncated or foreign file, for one that is not as the manifest of its
    checkpoint has it, and for weights that do not fit (`load_state`). The model is unchanged then.
    """
    load_state(model, read_safetensors(Path(path)), str(path), new_head=new_head)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU. Raises FileNotFoundError, or ValueError for a truncated or foreign file, and
    for one that is not as the manifest of its checkpoint has it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    check_listed(path)
    return read_tensors(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file whose checksum was compared. ValueError for a truncated or foreign file."""
    try:
        return load_file(path)
    except (SafetensorError, AttributeError, KeyError) as error:  # the last two for a number format torch lacks
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, new_head: bool = False) -> None:
    """Fills the model from a state dict with exactly its keys, shapes and kinds of numbers, all of them finite.

    Else ValueError, which names the first differences; the model is unchanged then. What wrappers put before and into
    names is left out, see `bare_names`. With `new_head` a classifier of other classes than the model's is left out, and
    the model's stays as it is, which is logged.
    """
    own = model.state_dict()
    tensors = bare_names(tensors, source, own)
    heads = _other_heads(model, own, tensors) if new_head else ()
    own, tensors = (_without(heads, state) for state in (own, tensors))
    check_fits(own, tensors, source, type(model).__name__)
    converted = {key: tensors[key].to(value.dtype) for key, value in own.items()}
    check_finite(converted, source)
    check_variances(converted, source)
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(converted[key])
    mark_untrained(model, "classifier" if heads and getattr(model, "num_classes", 1) else "")
    if heads:
        own_head = "whose own is new" if getattr(model, "num_classes", 1) else "which has none"
        logger.warning(f"{source}: {' and '.join(heads)} left out, of other classes than the model, {own_head}")


def check_fits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str, name: str) -> None:
    """ValueError unless `tensors`, from `source`, have the keys, shapes and kinds of numbers of `own`, which is that of
    `name`. Floats of 16, 32 and 64 bits fit each other; those of 8, integers, bool and complex numbers do not.
    """
    shared = [key for key in own if key in tensors]
    differences = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "wrong-shaped": [
            f"{key} {tuple(tensors[key].shape)}, expected {tuple(own[key].shape)}"
            for key in sorted(shared)
            if tensors[key].shape != own[key].shape
        ],
        "of another kind": [
            f"{key} {_dtype(tensors[key])}, expected {_dtype(own[key])}"
            for key in sorted(shared)
            if _kind(tensors[key]) != _kind(own[key])
        ],
    }
    if any(differences.values()):
        parts = [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in differences.items() if keys]
        logger.debug("%s and %s differ: %s", source, name, differences)
        raise ValueError(f"{source} does not fit {name}; " + "; ".join(parts) + _channel_advice(own, tensors))


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """ValueError, which names the first, if `tensors` hold NaN or infinity, as a training that failed leaves them."""
    held = {key: value for key, value in tensors.items() if not value.is_meta}
    counts = {key: int(value.numel() - value.isfinite().sum()) for key, value in held.items()}
    bad = [key for key, count in counts.items() if count]
    if bad:
        raise ValueError(
            f"{source} holds {sum(counts.values()):,} values that are not finite (NaN or infinity) in {len(bad)} of "
            f"{len(counts)} tensors, the first is {bad[0]}: take weights from before training failed"
        )


def check_variances(tensors: Mapping[str, Tensor], source: str) -> None:
    """ValueError for a running variance below 0, of which a norm makes NaN."""
    held = ((key, value) for key, value in tensors.items() if key.endswith("running_var") and not value.is_meta)
    for key, value in held:
        if value.numel() and float(value.min()) < 0:
            raise ValueError(f"{source}: {key} holds {float(value.min()):.6g}; a variance is expected to be 0 or more")


def _kind(tensor: Tensor) -> tuple[bool, ...]:
    floating, few_bits = tensor.is_floating_point(), tensor.dtype.itemsize < 2
    return floating, floating and few_bits, tensor.is_complex(), tensor.dtype == torch.bool


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def bare_names(tensors: Mapping[str, Tensor], source: str, own: Collection[str] = ()) -> dict[str, Tensor]:
    """`tensors` without what wrappers put before or into their names, which is logged.

    own: the names wanted; tensors whose names have none of the wrappers are left out where those of the others fit.
    """
    found, removed = dict(tensors), []
    for part in _WITHIN:
        if any(part in key for key in found) and not any(part in key for key in own):
            found = {key.replace(part, ""): tensor for key, tensor in found.items()}
            removed.append(part)
    inner = found
    while found and not any(key in own for key in found):
        prefix = next((prefix for prefix in _WRAPPERS if _wraps(prefix, found, own)), None)
        if prefix is None:
            break
        found = {key.removeprefix(prefix): tensor for key, tensor in found.items() if key.startswith(prefix)}
        removed.append(prefix)
    if own and not any(key in own for key in found):
        found = inner
    elif removed:
        others = f", and {len(tensors) - len(found)} other tensors left out" if len(found) < len(tensors) else ""
        logger.warning(f"{source}: names are read without {' '.join(removed)}{others}")
    return found


def _wraps(prefix: str, names: Collection[str], own: Collection[str]) -> bool:
    wrapped = [name.startswith(prefix) for name in names]
    return any(wrapped) if own else all(wrapped)


def _other_heads(model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The model's classifiers that the tensors have in another shape or not at all."""

    def shapes(head: str, state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
        return {key: tensor.shape for key, tensor in state.items() if key.startswith(f"{head}.")}

    known: tuple[str, ...] = getattr(model, "classifiers", ())
    return tuple(head for head in known if shapes(head, own) != shapes(head, tensors))


def _channel_advice(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """What to say where the first kernels differ only in the channels of images."""
    first = next((key for key, tensor in own.items() if tensor.dim() == 4), "")
    if first not in tensors or tensors[first].dim() != 4:
        return ""
    theirs, ours = tensors[first].shape, own[first].shape
    if theirs[1] == ours[1] or (theirs[0], *theirs[2:]) != (ours[0], *ours[2:]):
        return ""
    return f"; its images have {theirs[1]} channels, the model's {ours[1]}: in_chans={theirs[1]}"


def _without(heads: tuple[str, ...], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}


def mark_untrained(model: nn.Module, what: str) -> None:
    """Notes what of `model` is random: "weights", "classifier", or "" once all was loaded or trained."""
    model.__dict__["untrained"] = what


def untrained(model: nn.Module) -> str:
    """What of `model`, or of a model within it, was neither loaded nor trained: "weights", "classifier" or "".

    Gradients are taken for training, and so are batches that a norm has counted, unless only the classifier is new.
    """
    note = next((part.__dict__["untrained"] for part in model.modules() if part.__dict__.get("untrained")), "")
    if not note or any(weight.grad is not None for weight in model.parameters()):
        return ""
    counts = [buffer for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]
    counted = any(bool(count) for count in counts if count.device.type != "meta")
    return "" if counted and note == "weights" else note


def say_untrained(model: nn.Module, name: str) -> None:
    """Logs, once for each name, if something of `model` is random."""
    what = untrained(model)
    if what:
        subject = f"{name} has random weights" if what == "weights" else f"the classifier of {name} has random weights"
        _say(
            f"{subject}, neither loaded nor trained: figures of it say nothing about a trained model; "
            "pretrained=True or weights=FILE (--pretrained, --weights FILE) load trained ones"
        )


@functools.cache
def _say(message: str) -> None:
    logger.warning(message)


def _some(keys: list[str]) -> str:
    rest = len(keys) - _LISTED
    more = f" and {rest} more (SPIMM_LOG=debug lists all)" if rest > 0 else ""
    return ", ".join(key[:120] for key in keys[:_LISTED]) + more
