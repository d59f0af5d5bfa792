"""Errors that a command reports in one line, without a traceback."""

import signal

# Characters of a piece of a file that a message quotes.
_QUOTED = 120


class MoloError(Exception):
    """The work failed: missing data, a broken video, a checkpoint that does not fit."""

    exit_code = 1


class UsageError(MoloError):
    """A flag or a configuration value is wrong."""

    exit_code = 2


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def shortened(text: str) -> str:
    """Quotes a piece of a file in a message: its beginning, and its length if it is long."""
    if len(text) <= _QUOTED:
        return repr(text)
    return f"{text[:_QUOTED]!r}… ({len(text):,} characters)"
