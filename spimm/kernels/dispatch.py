"""Backends of the ops: which exist, which can serve a call, and the choice between them.

`auto` takes the first backend, in the order of registration, that supports the call, and logs each new choice once.
A backend asked for by name serves the call or raises with the reason: there is no silent fallback. Under transforms of
torch.func and forward-mode derivatives `auto` takes the reference, the one that torch can transform.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad

logger = logging.getLogger("spimm.kernels")


class Backend(NamedTuple):
    """`unsupported(*args, **kwargs)` gives the reason why `run` cannot serve the same call, or None.

    `auto` takes a backend with a `device` only if the first argument is a tensor there; by name it may serve others.
    """

    name: str
    run: Callable[..., Any]
    unsupported: Callable[..., str | None]
    device: str | None = None

    def passed_over(self, *args: Any, **kwargs: Any) -> str | None:
        """Why `auto` does not take it for a call, or None."""
        if self.device is not None and args[0].device.type != self.device:
            return f"unless named it serves {self.device} tensors only"
        return self.unsupported(*args, **kwargs)


_backends: dict[str, list[Backend]] = {}
_default = "auto"
_logged: set[tuple[str, str]] = set()


def register(
    op: str,
    name: str,
    run: Callable[..., Any],
    unsupported: Callable[..., str | None],
    *,
    device: str | None = None,
) -> None:
    """Adds a backend to an op; earlier ones are preferred by `auto`. Raises ValueError on a clash of names."""
    entries = _backends.setdefault(op, [])
    if any(entry.name == name for entry in entries):
        raise ValueError(f"op {op!r} has a backend {name!r} already")
    entries.append(Backend(name, run, unsupported, device))


def list_backends(op: str, device: str = "cpu") -> list[str]:
    """Names of the backends of an op that `auto` considers for tensors on a device, the preferred one first."""
    return [entry.name for entry in _backends[op] if entry.device in (None, device)]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the context, calls that say `backend="auto"` behave as if they named this backend."""
    global _default
    known = sorted({"auto", *(entry.name for entries in _backends.values() for entry in entries)})
    if name not in known:
        raise ValueError(f"unknown backend {name!r}; known ones are {', '.join(known)}")
    before, _default = _default, name
    try:
        yield
    finally:
        _default = before


def call(op: str, backend: str, *args: Any, **kwargs: Any) -> Any:
    """Runs the op on the backend asked for. Raises ValueError for an unknown name, RuntimeError for one that cannot.

    An input without elements is the reference's on every backend: kernels divide by its sizes.
    """
    wanted = _default if backend == "auto" else backend
    entries = _backends[op]
    if wanted != "reference" and (transform := transforms()):
        return _transformed(op, wanted, transform, *args, **kwargs)
    if wanted == "auto":
        for entry in entries:
            if entry.passed_over(*args, **kwargs) is None:
                _log_once(op, entry.name)
                return _runner(entries, entry, args[0])(*args, **kwargs)
        reasons = "; ".join(f"{entry.name}: {entry.passed_over(*args, **kwargs)}" for entry in entries)
        raise RuntimeError(f"no backend of {op!r} supports this call: {reasons}")
    for entry in entries:
        if entry.name == wanted:
            if reason := entry.unsupported(*args, **kwargs):
                raise RuntimeError(f"backend {wanted!r} of {op!r} cannot serve this call: {reason}")
            return _runner(entries, entry, args[0])(*args, **kwargs)
    known = ", ".join(["auto", *(entry.name for entry in entries)])
    raise ValueError(f"unknown backend {wanted!r} of {op!r}; known ones are {known}")


def _runner(entries: list[Backend], chosen: Backend, x: Any) -> Callable[..., Any]:
    if isinstance(x, torch.Tensor) and x.numel() == 0:
        chosen = next((entry for entry in entries if entry.name == "reference"), chosen)
    return chosen.run


def transforms() -> str | None:
    """The transform of functions that is active: backends but the reference would pass over it without a word."""
    if torch._C._are_functorch_transforms_active():
        return "transforms of torch.func"
    return "forward-mode derivatives" if forward_ad._current_level >= 0 else None


def _transformed(op: str, wanted: str, transform: str, *args: Any, **kwargs: Any) -> Any:
    """Runs the op on the reference, which torch can transform; a backend asked for by name is an error."""
    if wanted != "auto":
        raise RuntimeError(
            f"backend {wanted!r} of {op!r} cannot serve {transform}; leave the choice to 'auto', "
            "or use spimm.kernels.dispatch.use_backend('reference')"
        )
    _log_once(op, f"reference (for {transform})")
    return next(entry.run for entry in _backends[op] if entry.name == "reference")(*args, **kwargs)


def _log_once(op: str, name: str) -> None:
    if not torch.compiler.is_compiling() and (op, name) not in _logged:
        _logged.add((op, name))
        logger.info("%s runs on backend %s", op, name)
