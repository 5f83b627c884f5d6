"""`spimm COMMAND`: finds the command, turns errors of the user's making into one line."""

import logging
import os
import re
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.markup import escape

from spimm.cli.analyze import analyze
from spimm.cli.bench import bench
from spimm.cli.console import print_anywhere
from spimm.cli.evaluate import evaluate
from spimm.cli.info import info
from spimm.cli.models import models
from spimm.cli.parsing import short_errors
from spimm.cli.quickstart import quickstart
from spimm.cli.recipes import recipes
from spimm.cli.reproduce import reproduce
from spimm.cli.simulate import simulate
from spimm.cli.train import train
from spimm.kernels import keep_freed_memory

COMMANDS = {
    "models": models,
    "recipes": recipes,
    "train": train,
    "reproduce": reproduce,
    "eval": evaluate,
    "analyze": analyze,
    "simulate": simulate,
    "bench": bench,
    "info": info,
    "quickstart": quickstart,
}
DESCRIPTION = "Spiking vision models: build by name, train or load, get accuracy, firing rates and energy out."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failed check, 2 for an error, 130 for an interruption.

    SPIMM_TRACEBACK=1 shows the whole traceback of an error.
    """
    keep_freed_memory()
    print_anywhere()
    logging.basicConfig(level=os.environ.get("SPIMM_LOG", "WARNING").upper(), format="%(name)s: %(message)s")
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        asked = given[0] if given and given[0] in COMMANDS else ""
        with short_errors(COMMANDS, asked) as commands:
            status = tyro.extras.subcommand_cli_from_dict(
                commands, prog="spimm", description=DESCRIPTION, args=given, config=(tyro.conf.OmitArgPrefixes,)
            )
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("SPIMM_TRACEBACK"):
            raise
        said = f"[bold red]spimm: error:[/] {escape(_plain(error))}"
        Console(stderr=True).print(said, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return status or 0


def _plain(error: Exception) -> str:
    """The text of an error; of one of torch about memory what a user can do."""
    text = str(error)
    if isinstance(error, RuntimeError) and "allocate" in text and "memory" in text:
        size = re.search(r"allocate (\d+) bytes", text)
        tried = f"{int(size[1]):,} bytes are" if size else "more is"
        return f"{tried} needed than there is memory: a smaller batch_size, num_steps, image_size or model takes less"
    return text


if __name__ == "__main__":
    sys.exit(main())
