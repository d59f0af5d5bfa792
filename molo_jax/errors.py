"""Errors that a command reports in one line, without a traceback."""


class MoloError(Exception):
    """The work failed: missing data, a broken video, a checkpoint that does not fit."""

    exit_code = 1


class UsageError(MoloError):
    """A flag or a configuration value is wrong."""

    exit_code = 2
