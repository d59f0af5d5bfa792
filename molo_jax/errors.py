"""Errors that a command reports in one line, without a traceback."""


class MoloError(Exception):
    """The work failed: missing data, a broken video, a checkpoint that does not fit."""

    exit_code = 1


class UsageError(MoloError):
    """A flag or a configuration value is wrong."""

    exit_code = 2


def shortened(text: str, most: int = 120) -> str:
    """Quotes a piece of a file in a message: its beginning, and its length if it is long."""
    if len(text) <= most:
        return repr(text)
    return f"{text[:most]!r}… ({len(text):,} characters)"
