"""What tyro says of a wrong command, in three lines at most."""

import functools
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Command = Callable[..., Any]


@contextmanager
def short_errors(commands: Mapping[str, Command], asked: str) -> Iterator[dict[str, Command]]:
    """Gives commands that print as ever; what is printed on standard error before one runs is cut to what is wrong.

    asked: the command that the user named, or nothing.
    """
    terminal, said = sys.stderr, io.StringIO()
    sys.stderr = said
    try:
        yield {name: _within(command, terminal) for name, command in commands.items()}
    except SystemExit:
        if said.getvalue().strip():
            terminal.write(shortened(said.getvalue(), asked) + "\n")
        raise
    finally:
        sys.stderr = terminal


def shortened(text: str, asked: str) -> str:
    """The first part of what tyro frames, the commands where it names them, and where help is."""
    lines = [line.strip(" │") for line in text.strip().splitlines()]
    body = lines[1:-1] if lines[0].startswith("╭") else lines[2:]  # a title in the frame, or one that is underlined
    parts = [" ".join(part.split()) for part in re.split(r"^[─-]{4,}$", "\n".join(body), flags=re.MULTILINE)]
    wrong = re.sub(r"__tyro-dummy-inner__\.\w+: ", "", parts[0]).partition(" Got errors:")[0]
    others = [part for part in parts[1:] if part.startswith("Available subcommands")]
    return "\n".join([f"spimm: error: {wrong}", *others[:1], f"help: spimm {asked} --help".replace("  ", " ")])


def _within(command: Command, terminal: Any) -> Command:
    """`command` with standard error as it was."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        sys.stderr = terminal
        return command(*arguments, **options)

    return run
