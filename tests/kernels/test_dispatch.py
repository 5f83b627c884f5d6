import functools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spimm.kernels import Dynamics, dispatch, lif, list_backends, norm_lif, use_backend


def run_child(code: str, *arguments: str, isa: str = "") -> subprocess.CompletedProcess[str]:
    """Runs code in another Python, with the same package (-P: not one that lies in this folder)."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "SPIMM_CPU_ISA": isa, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def two_backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Op `double` whose preferred backend `picky` serves positive numbers only; and `slow`, which serves all."""
    monkeypatch.setattr(dispatch, "_backends", {})
    monkeypatch.setattr(dispatch, "_logged", set())
    dispatch.register("double", "picky", lambda x: ("picky", 2 * x), lambda x: None if x > 0 else f"x is {x}")
    dispatch.register("double", "slow", lambda x: ("slow", x + x), lambda x: "too large" if x > 100 else None)
    return


@pytest.mark.usefixtures("two_backends")
def test_auto_takes_the_first_backend_that_supports_the_call() -> None:
    assert list_backends("double") == ["picky", "slow"]
    assert dispatch.call("double", "auto", 3) == ("picky", 6)
    assert dispatch.call("double", "auto", -3) == ("slow", -6)


@pytest.mark.usefixtures("two_backends")
def test_auto_logs_each_choice_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "spimm.kernels"):
        for x in (1, 2, -1, 3, -2):
            dispatch.call("double", "auto", x)
    assert [record.getMessage() for record in caplog.records] == [
        "double runs on backend picky",
        "double runs on backend slow",
    ]


@pytest.mark.usefixtures("two_backends")
def test_a_named_backend_serves_the_call_or_says_why_not() -> None:
    assert dispatch.call("double", "slow", 3) == ("slow", 6)
    with pytest.raises(RuntimeError, match=r"backend 'picky' of 'double' cannot serve this call: x is -3"):
        dispatch.call("double", "picky", -3)
    with pytest.raises(ValueError, match=r"unknown backend 'fast' of 'double'; known ones are auto, picky, slow"):
        dispatch.call("double", "fast", 3)


def test_without_any_backend_that_serves_every_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_backends", {})
    for name in ("one", "two"):
        dispatch.register("op", name, lambda: None, lambda name=name: f"reason {name}")
    with pytest.raises(RuntimeError, match=r"no backend of 'op' supports this call: one: reason one; two: reason two"):
        dispatch.call("op", "auto")


@pytest.mark.usefixtures("two_backends")
def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"op 'double' has a backend 'slow' already"):
        dispatch.register("double", "slow", lambda x: x, lambda x: None)


@pytest.mark.usefixtures("two_backends")
def test_use_backend_holds_within_its_context_and_yields_to_a_named_one() -> None:
    with use_backend("slow"):
        assert dispatch.call("double", "auto", 1) == ("slow", 2)
        assert dispatch.call("double", "picky", 1) == ("picky", 2)
        with use_backend("auto"):
            assert dispatch.call("double", "auto", 1) == ("picky", 2)
        assert dispatch.call("double", "auto", 1) == ("slow", 2)
    assert dispatch.call("double", "auto", 1) == ("picky", 2)
    with pytest.raises(ZeroDivisionError), use_backend("slow"):
        raise ZeroDivisionError
    assert dispatch.call("double", "auto", 1) == ("picky", 2)
    message = r"unknown backend 'fast'; known ones are auto, picky, slow"
    with pytest.raises(ValueError, match=message), use_backend("fast"):
        pass


def test_double_precision_runs_on_the_reference_and_never_on_the_named_cpu_backend() -> None:
    x = torch.ones(2, 1, 3, dtype=torch.float64)
    weight = torch.ones(3, dtype=torch.float64)
    assert lif(x, Dynamics())[0].dtype == torch.float64
    assert norm_lif(x, weight, weight, Dynamics())[1].dtype == torch.float64
    reason = "'cpu' of '(norm_)?lif' cannot serve this call: it stores float32 or bfloat16, x is float64"
    with pytest.raises(RuntimeError, match=reason):
        lif(x, Dynamics(), backend="cpu")
    with pytest.raises(RuntimeError, match=reason), use_backend("cpu"):
        norm_lif(x, weight, weight, Dynamics())


def test_without_the_extension_the_reason_is_told_and_auto_runs_the_reference() -> None:
    child = run_child(
        "import logging, sys, torch; sys.modules['spimm.kernels._cpu'] = None; logging.basicConfig(level='INFO'); "
        "from spimm.kernels import Dynamics, lif; x = torch.ones(2, 3); "
        "lif(x, Dynamics()); lif(x, Dynamics(), backend='cpu')"
    )
    assert "lif runs on backend reference" in child.stderr
    last = child.stderr.splitlines()[-1]
    assert last.startswith(
        "RuntimeError: backend 'cpu' of 'lif' cannot serve this call: the compiled extension could not"
    )


def test_every_op_prefers_the_compiled_backend_and_ends_with_the_reference() -> None:
    for op in ("lif", "norm_lif"):
        assert list_backends(op)[0] == "cpu"
        assert list_backends(op)[-1] == "reference"


COMPILED = ("lif", "norm_lif", "multi_lif", "norm_pool_lif", "qk_mask", "spike_attention", "spike_conv")


@functools.cache
def runnable_builds() -> str:
    """What the extension says when it is asked for a build that does not exist."""
    return run_child("from spimm.kernels.cpu import extension; extension().isa()", isa="none").stderr.splitlines()[-1]


def test_an_unknown_instruction_set_is_refused_with_those_that_run() -> None:
    assert "SPIMM_CPU_ISA=none: this processor and build run" in runnable_builds()
    assert runnable_builds().endswith("baseline")


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_build_that_this_processor_runs_agrees_with_the_reference(isa: str) -> None:
    if isa not in runnable_builds():
        pytest.skip(f"{isa} does not run here ({runnable_builds()})")
    folder = Path(__file__).parent
    child = run_child(
        "import sys, pytest; from spimm.kernels.cpu import extension; "
        f"assert extension().isa() == {isa!r}; sys.exit(pytest.main(sys.argv[1:]))",
        *("-p", "no:cacheprovider", "-x", "-k", "agrees_with_the_reference and cpu"),
        *(str(folder / f"test_{op}.py") for op in COMPILED),
        isa=isa,
    )
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-1000:]
    assert "passed" in child.stdout
