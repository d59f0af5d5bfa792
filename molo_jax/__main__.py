"""One name for all commands: `molo-jax COMMAND …` does what `python -m molo_jax.COMMAND …` does."""

import difflib
import runpy
import sys

from molo_jax import __version__
from molo_jax.console import show_error, show_text
from molo_jax.errors import UsageError

# Each command is the module of that name; in the order in which they are used.
COMMANDS = {
    "prepare": "decode the videos of a data set once and store their frames",
    "main": "train a network and evaluate it",
    "summary": "say what a training needs: operations, memory and time",
    "embed": "compute the features of all videos of a split, keep and export them",
    "compare": "compare networks on the same episodes",
    "report": "write the report of a work folder as one HTML page",
    "predict": "say which class a clip is, or label a long video",
    "app": "show a page in the browser to try it",
    "convert": "convert weights between PyTorch files and checkpoints",
    "export": "write a network as StableHLO or ONNX programs",
}
_HELP = ("--help", "-help", "--helpshort", "-h", "-?", "help")
_VERSION = ("--version", "-version", "-V")


def help_text() -> str:
    """Returns the help: what is typed, and every command with what it does."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "molo-jax COMMAND [--FLAG=VALUE …]",
            "",
            "Few-shot action recognition in JAX. The commands:",
            "",
            *(f"  {name:{width}}  {does}" for name, does in COMMANDS.items()),
            "",
            "molo-jax COMMAND --help lists the flags of a command, and molo-jax --version says the",
            "version. python -m molo_jax.COMMAND is the same as molo-jax COMMAND.",
        ]
    )


def main() -> None:
    """Runs the command that the command line names.

    Exits with code 2 where it names none, and as the command does otherwise.
    """
    program, *arguments = sys.argv
    if not arguments:
        print(help_text(), file=sys.stderr)
        sys.exit(UsageError.exit_code)
    command, *rest = arguments
    if command in _HELP:
        show_text(help_text())
    elif command in _VERSION:
        show_text(f"molo-jax {__version__}")
    elif command not in COMMANDS:
        show_error(_unknown(command))
        sys.exit(UsageError.exit_code)
    else:
        sys.argv = [program, *rest]
        # As Python's own -m: processes that the command starts find it under its name.
        runpy.run_module(f"molo_jax.{command}", run_name="__main__", alter_sys=True)


def _unknown(given: str) -> str:
    """Says which command is meant, or that a command must stand in front of its flags."""
    if given.startswith("-"):
        return f"{given} stands before the command; expected molo-jax COMMAND {given}"
    close = difflib.get_close_matches(given, COMMANDS, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]}?" if close else "."
    return f"unknown command {given!r}{meant} The commands are {', '.join(COMMANDS)}"


if __name__ == "__main__":
    main()
