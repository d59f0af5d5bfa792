"""How a command starts and how it fails: one line on stderr and an exit code, no trace.

Exit codes: 0 done, 1 the work failed (`MoloError`), 2 a flag or a configuration value is wrong
(`UsageError`), 130 interrupted by SIGINT, 143 stopped by SIGTERM. A failed command ends for
certain: nothing that a library left running can keep it, or write behind its last line.
"""

import difflib
import logging as std_logging
import os
import re
import runpy
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from molo_jax import __version__, config_files
from molo_jax.config import config_keys
from molo_jax.console import BesideBars, claim_end, end_process, reason_of, show_error
from molo_jax.errors import MoloError, UsageError
from molo_jax.methods.settings import METHODS, own_fields

# TensorFlow reads these when it is imported; it only reads the data here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# TensorFlow otherwise imports Keras, which nothing here needs and which takes seconds.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

# As the last argument of a command: it takes any more of them.
ANY_MORE = "…"
_CONFIG_FLAG = "config"


class _VersionFlag(flags.BooleanFlag):
    """`--version`: prints the version and ends the command, as absl's `--help` does."""

    def parse(self, argument: str | bool | None) -> None:
        if self._parse(argument):
            print(f"molo-jax {__version__}")
            sys.exit(0)


_VERSION = flags.DEFINE_flag(_VersionFlag("version", False, "Print the version, and nothing else."))


class _ConfigFile(config_flags.ConfigFileFlagParser):
    """Takes the name of a packaged configuration for its file."""

    def parse(self, path: str) -> ConfigDict:
        return super().parse(_located(path))


def define_config() -> flags.FlagHolder:
    """Defines `--config=FILE` with `--config.KEY=VALUE` overrides, locked against unknown keys."""
    holder = config_flags.DEFINE_config_file(
        _CONFIG_FLAG,
        None,
        "Configuration: a file, or the name of one of the package, such as ssv2_5shot; behind a"
        " colon a method (ssv2_5shot:hyrsm; without it MoLo). Change values with"
        " --config.KEY=VALUE. --list_keys lists the keys.",
    )
    flags.FLAGS[_CONFIG_FLAG].parser = _ConfigFile(_CONFIG_FLAG)
    return holder


def _located(given: str) -> str:
    """Puts the path of the file in front of the colon of `FILE:METHOD`."""
    file, colon, method = given.partition(":")
    return f"{config_files.located(file)}{colon}{method}"


def _say_configuration() -> None:
    """Logs which file the configuration is, where another path or a name was given."""
    given = flags.FLAGS[_CONFIG_FLAG].config_filename if _CONFIG_FLAG in flags.FLAGS else None
    if given and _located(given) != given:
        logging.info("the configuration is %s", _located(given))


def work_folder_of(given: str | None) -> Path:
    """Returns the work folder of a run, where none is given that of the configuration file."""
    file, _, method = flags.FLAGS[_CONFIG_FLAG].config_filename.partition(":")
    # Two methods of one configuration file are two trainings.
    name = f"{Path(file).stem}_{method}" if method else Path(file).stem
    return Path(given or f"runs/{name}").absolute()


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] = ()) -> NoReturn:
    """Parses the flags, calls `main` with the arguments that are no flags, and exits.

    Args:
        main: the command; raises `MoloError` for what its user can mend.
        arguments: names of the arguments without `--` that the command needs, in their order;
            `main` gets them behind the name of the program. A last name `…` allows any more.
    """
    sys.unraisablehook = _unless_of_a_library
    # Among the command's own flags in its help.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[_VERSION.name])

    def work(argv: Sequence[str]) -> None:
        _say_configuration()
        main(argv)

    try:
        app.run(
            lambda argv: _guard(lambda: work(argv)),
            flags_parser=lambda argv: _parse_or_exit(argv, arguments),
        )
    except SystemExit as stop:
        if not isinstance(stop.code, int) or not stop.code:
            raise
        end_process(stop.code)
    # A defect of the program keeps its trace.
    except BaseException:
        claim_end()
        traceback.print_exc()
        end_process(MoloError.exit_code)


def _unless_of_a_library(unraisable: "sys.UnraisableHookArgs") -> None:
    """Shows an error that cannot be raised, unless it is of another thread than the main one.

    Such threads are tensorstore's: while a checkpoint fails to be written, hundreds of their calls
    find the event loop closed. The error of the write itself is raised in the main thread.
    """
    if threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(unraisable)


def _guard(work: Callable[[], object]) -> object:
    """Returns what `work` returns; known errors end the process with one line."""
    try:
        return work()
    except (MoloError, OSError, KeyboardInterrupt) as error:
        line, code = reason_of(error)
        claim_end()
        show_error(line)
        sys.exit(code)


def _parse_or_exit(argv: list[str], arguments: Sequence[str]) -> list[str]:
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_is_ours_or_serious)
    handler.python_handler.setStream(BesideBars())
    return _guard(lambda: _parsed(argv, arguments))


def _parsed(argv: Sequence[str], arguments: Sequence[str]) -> list[str]:
    try:
        return parse_flags(argv, arguments)
    except BrokenPipeError:
        # The reader of a help, such as `head`, has seen enough.
        end_process(0)


def _is_ours_or_serious(record: std_logging.LogRecord) -> bool:
    """Keeps libraries out of the log that tell each of their steps; their warnings are shown.

    Of orbax and asyncio also the errors are left out: what orbax cannot do it raises as well, and
    asyncio says it again with a trace for each of a checkpoint's tensors.
    """
    if record.pathname.startswith(str(Path(__file__).parent)):
        return True
    # TFDS says at each start that the configuration of a data set is its own.
    if f"{os.sep}tensorflow_datasets{os.sep}" in record.pathname and str(record.msg).startswith(
        "Using custom data configuration"
    ):
        return False
    twice = record.name == "asyncio" or f"{os.sep}orbax{os.sep}" in record.pathname
    return record.levelno >= std_logging.WARNING and not twice


def parse_flags(argv: Sequence[str], arguments: Sequence[str] = ()) -> list[str]:
    """Parses `argv` into absl's flags and returns what is left.

    Raises:
        UsageError: for an unknown flag, a configuration that cannot be loaded, a key that it does
            not have (with the closest one that it has), a value of the wrong type, or another
            number of arguments than there are names in `arguments`.
    """
    if _CONFIG_FLAG in flags.FLAGS:
        _check_config(argv[1:])
    if arguments:
        # Flags may stand behind the arguments.
        flags.FLAGS.set_gnu_getopt()
    try:
        rest = flags.FLAGS(_without_ranges(argv))
    except flags.UnrecognizedFlagError as error:
        raise UsageError(f"unknown flag --{error.flagname}{_closest_flag(error)}") from None
    except flags.Error as error:
        raise UsageError(f"{_without_prefix(str(error))}") from None
    except SystemExit:
        # The help that was asked for has been printed; for absl that is a failure.
        sys.exit(0)
    needed = [name for name in arguments if name != ANY_MORE]
    if len(rest) > 1 + len(needed) and ANY_MORE not in arguments:
        extra = rest[1 + len(needed)]
        raise UsageError(f"unexpected argument {extra!r}; flags are written --name=value")
    if len(rest) < 1 + len(needed):
        these = "is required; --help says what it is"
        if len(needed) > 1:
            these = "are required; --help says what they are"
        raise UsageError(f"{' and '.join(needed)} {these}")
    return rest


# Keys whose whole numbers may be given as a range, `--config.eval.ways=5:10`.
_RANGE_FLAG = re.compile(r"--?config\.eval\.(ways|shots)(?:=(.*))?", re.DOTALL)
_RANGE = re.compile(r"(\d+):(\d+)")
_LONGEST_RANGE = 10_000


def _without_ranges(argv: Sequence[str]) -> list[str]:
    """Writes a range of whole numbers as one flag for each.

    Raises:
        UsageError: a range is empty or too long, or is none.
    """
    plain, left = [], list(argv)
    while left:
        argument = left.pop(0)
        flag = _RANGE_FLAG.fullmatch(argument)
        value = flag and (left[0] if flag[2] is None and left else flag[2])
        # Numbers, and tuples of numbers, are read as other values are.
        if not value or not re.search(r"[:.]", value):
            plain.append(argument)
            continue
        if flag[2] is None:
            left.pop(0)
        found = _RANGE.fullmatch(value)
        first, last = (int(found[1]), int(found[2])) if found else (1, 0)
        if not first <= last < first + _LONGEST_RANGE:
            raise UsageError(
                f"config.eval.{flag[1]} is {value!r}; expected a whole number, or a range"
                f" FIRST:LAST, such as 5:10, with FIRST <= LAST and at most {_LONGEST_RANGE:,}"
                " numbers"
            )
        plain += [f"--config.eval.{flag[1]}={number}" for number in range(first, last + 1)]
    return plain


# What Python says of a text that is no number, and what people understand.
_NO_NUMBER = (
    (r"invalid literal for int\(\) with base 10: .*", "expected a whole number"),
    (r"could not convert string to float: .*", "expected a number"),
)


def _without_prefix(message: str) -> str:
    """Joins the lines of absl's 'flag --config.a=x: text', and says its text in plain words."""
    message = " ".join(message.split())
    for said, meant in _NO_NUMBER:
        message = re.sub(said, meant, message)
    return message


def _closest_flag(error: flags.UnrecognizedFlagError) -> str:
    own = [name for name in flags.FLAGS if not name.startswith(f"{_CONFIG_FLAG}.")]
    return _suggestion(error.flagname, own, "--")


def _suggestion(wrong: str, known: Sequence[str], prefix: str) -> str:
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _check_config(arguments: Sequence[str]) -> None:
    """Loads the configuration file once before absl does, for errors that can be understood."""
    if any(argument.lstrip("-").startswith(("help", "version")) for argument in arguments):
        return
    paths, overrides = _config_arguments(arguments)
    if not paths:
        raise UsageError("--config=FILE is required, for example --config=configs/synthetic.py")
    config = load_config(paths[-1])
    known = config_keys(config)
    sections = {key.rpartition(".")[0] for key in known} - {""}
    for name in overrides:
        if name in sections:
            keys = ", ".join(config[name].keys())
            raise UsageError(f"--config.{name} is a section; set one of its keys: {keys}")
        if name not in known:
            hint = _owners(name, config) or _closest_key(name, known)
            raise UsageError(f"unknown key --config.{name}{hint}")


def _config_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the values of `--config` and the names behind `--config.` in a command line."""
    paths, overrides = [], []
    for position, argument in enumerate(arguments):
        if argument == "--":
            break
        name, separator, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-"):
            continue
        if name == _CONFIG_FLAG:
            paths += [value] if separator else list(arguments[position + 1 : position + 2])
        name = name.removeprefix("no") if name.startswith(f"no{_CONFIG_FLAG}.") else name
        if name.startswith(f"{_CONFIG_FLAG}."):
            overrides.append(name.removeprefix(f"{_CONFIG_FLAG}."))
    return paths, overrides


def _owners(wrong: str, config: ConfigDict) -> str:
    """Says which methods have a setting that the chosen method lacks; nothing if none has it."""
    section, _, setting = wrong.partition(".")
    owners = [name for name, known in METHODS.items() if setting in own_fields(known)]
    if section != "method" or "method" not in config or not owners:
        return ""
    *first, last = owners
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"; {setting} is a setting of {listed}, and the method is {config.method.name}"


def _closest_key(wrong: str, known: Sequence[str]) -> str:
    """Prefers a key whose last part resembles the wrong one's, in whatever section it is."""
    leaf = wrong.rpartition(".")[2]
    by_leaf = {key.rpartition(".")[2]: key for key in known}
    whole = difflib.get_close_matches(wrong, known, n=1, cutoff=0.75)
    close = whole or [by_leaf[name] for name in difflib.get_close_matches(leaf, by_leaf, n=1)]
    close = close or difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"; did you mean --config.{close[0]}?" if close else ""


def load_config(path: str) -> ConfigDict:
    """Loads the configuration that `get_config()` of the file at `path` returns.

    Args:
        path: the file, or the name of a packaged configuration such as `ssv2_5shot`; what stands
            behind a colon (`FILE:METHOD`) is the function's argument.

    Raises:
        UsageError: when the file is absent, fails, or returns no configuration.
    """
    path, *argument = path.split(":", 1)
    path = config_files.located(path)
    try:
        defined = runpy.run_path(path)
        if not callable(defined.get("get_config")):
            raise UsageError(
                f"configuration file {path!r} defines no function get_config(); expected one that"
                " returns the configuration, as in the files of the folder configs"
            )
        config = defined["get_config"](*argument)
    except UsageError:
        raise
    # Whatever the file's own code raises is a mistake in that file.
    except Exception as error:
        reason = _without_other_fields(error)
        where = "".join(f", line {line}" for line in _last_line(error, path))
        raise UsageError(f"configuration file {path!r} failed{where}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise UsageError(
            f"get_config() of {path!r} returned {type(config).__name__}, no ConfigDict"
        )
    return config


def _without_other_fields(error: Exception) -> str:
    """Puts an error on one line, without the list of all keys that ml_collections adds."""
    text = str(error.args[0] if error.args else error).replace("\\n", " ")
    text = " ".join(text.split())
    # The text of a KeyError comes in quotes.
    text = text[1:-1] if text.startswith("'") and text.endswith("'") else text
    return f"{type(error).__name__}: {re.sub(r'Other fields present: .*}. ?', '', text)}"


def _last_line(error: Exception, path: str) -> list[int]:
    """Returns the number of the line of the file that the error came from, if one did."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return [error.lineno] if error.lineno else []
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.lineno for frame in frames if frame.filename == path][-1:]
