"""What commands print reaches consoles of every encoding."""

import io
import sys

import pytest

from spimm.cli.main import COMMANDS, main
from spimm.words import counted


def printed(arguments: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit status and standard output and error of a command whose console has that encoding."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        try:
            status = main(arguments)
        except SystemExit as end:  # of --help
            status = end.code if isinstance(end.code, int) else 1
    return status, raw.getvalue().decode(encoding)


HELPS = [["--help"], *([command, "--help"] for command in COMMANDS)]


ENCODINGS = [("ascii", arguments) for arguments in HELPS]
ENCODINGS += [(encoding, HELPS[0]) for encoding in ("gbk", "cp1252", "utf-8")]


@pytest.mark.parametrize(("encoding", "arguments"), ENCODINGS)
def test_every_help_is_printed(arguments: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, text = printed(arguments, encoding, monkeypatch)
    assert status == 0
    assert "usage: spimm" in text and "?" not in text.replace("Jupyter?", "")


@pytest.mark.parametrize("arguments", [["models"], ["info"], ["recipes", "digits"]], ids=" ".join)
def test_tables_are_printed_in_ascii(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(arguments, "ascii", monkeypatch)[0] == 0


def test_names_of_files_and_letters_of_no_kind_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "utf-8"):
        status, text = printed(["eval", "lauf_\udcff_数"], encoding, monkeypatch)
        assert (status, "lauf_?_" in text) == (2, True)


def test_one_of_a_thing_is_not_several() -> None:
    shown = [counted(count, noun) for count, noun in ((1, "step"), (2, "step"), (1000, "process"), (1, "process"))]
    assert shown == ["1 step", "2 steps", "1,000 processes", "1 process"]
