"""Where commands print."""

import codecs
import io
import sys

from rich.console import Console

_WIDTH = 132
_ERRORS = "spimm.plain"
_PLAIN = {"•": "*", "…": "...", "×": "x", "–": "-", "—": "-", "’": "'", "│": "|", "┃": "|", "─": "-", "━": "-"}


def wide_console() -> Console:
    """Standard output, wide enough for the tables; a narrower terminal wraps their lines."""
    found = Console()
    return found if found.width >= _WIDTH else Console(width=_WIDTH)


def print_anywhere() -> None:
    """Has standard output and error print the nearest letters for those that their encoding (ascii, gbk) lacks."""
    codecs.register_error(_ERRORS, _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "+" if "\u2500" <= letter <= "\u257f" else "?") for letter in letters), error.end
