"""The Dask cluster that prepares videos: is it there, and can its workers do the work?"""

import argparse
import contextlib
import dataclasses
import difflib
import json
import logging as std_logging
import os
import queue
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from molo_jax.data.lists.enough import plural
from molo_jax.data.store import assignments
from molo_jax.errors import MoloError, UsageError

RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
_PACKAGES = ("cloudpickle", "dask", "distributed")
_NAME = "--beam_runner=DaskRunner"
_GIVE = "--beam_pipeline_options=dask_client_address=tcp://HOST:8786"
# Seconds that Dask waits for a scheduler and this module for a worker; beyond them, what a
# connection to a program that never answers is given.
_PATIENCE, _GRACE = 30, 5
_SPLITS = "--dask_npartitions", "--dask_partition_size"


def is_named(runner: str) -> bool:
    """Whether a runner's name, as Beam writes names, means Dask; Beam 2.77 knows no short one."""
    return runner.lower() in ("dask", "daskrunner", RUNNER.lower())


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A Dask cluster that may not be there.

    Attributes:
        connection: arguments of `distributed.Client` that lead to the scheduler.
        seconds: how long to wait for it.
        options: Beam's, with which its runner makes the same connection.
    """

    connection: Mapping[str, Any]
    seconds: float
    options: Sequence[str]

    @classmethod
    def of(cls, options: Sequence[str]) -> "Cluster":
        """Reads the options of Beam's runner.

        Args:
            options: as `--name=value`.

        Raises:
            UsageError: naming an option that Dask's runner does not have, or a value that is wrong,
                or how to say where the scheduler is.
        """
        from dask import config

        given = _parsed(options)
        connection = {
            name: value for name in ("address", "scheduler_file") if (value := given.pop(name))
        }
        if not connection and not config.get("scheduler-address", None):
            raise UsageError(
                f"{_NAME} needs the address of a Dask scheduler: {_GIVE}. On one machine, leave"
                " --beam_runner out: its cores are used anyway"
            )
        file = connection.get("scheduler_file")
        if file:
            _check_scheduler_file(file)
        seconds = given.pop("timeout")
        # A record file is a task; by default 128 of them would be one.
        split = [] if given["npartitions"] or given["partition_size"] else [f"{_SPLITS[1]}=1"]
        return cls(connection, seconds or _PATIENCE, [*options, *split])

    @contextlib.contextmanager
    def connected(self) -> Iterator["Connection"]:
        """A connection to the scheduler, for as long as the block runs.

        Raises:
            MoloError: there is no scheduler, or it has no worker.
        """
        with _quiet():
            client = self._client()
            try:
                yield Connection(client, self._wait_for_workers(client))
            finally:
                with contextlib.suppress(Exception):
                    client.close(timeout=_GRACE)

    def check_open(self, client: Any) -> None:
        """Checks that a connection has lasted until the end.

        Args:
            client: a `distributed.Client`.

        Raises:
            MoloError: it was lost.
        """
        if client.status != "running":
            raise MoloError(
                f"the connection to the Dask scheduler at {self._address()} was lost. Record files"
                " that are whole are kept; start a scheduler and workers, and the same command goes"
                " on from there"
            )

    def _client(self) -> Any:
        from distributed import Client

        try:
            # Dask has no limit for a program that takes the connection and then says nothing.
            return _within(
                self.seconds + _GRACE, lambda: Client(**self.connection, timeout=self.seconds)
            )
        except ValueError as error:
            raise UsageError(f"{self._address()} is no address: {error}; {_GIVE}") from error
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise MoloError(
                f"there is no Dask scheduler at {self._address()} ({reason[0]}); start one with"
                f" `dask scheduler`, or name the address that it shows: {_GIVE}"
            ) from error

    def _address(self) -> str:
        from dask import config

        return self.connection.get("address") or self.connection.get(
            "scheduler_file", config.get("scheduler-address", "")
        )

    def _wait_for_workers(self, client: Any) -> str:
        from distributed import TimeoutError as LateError

        address = client.scheduler.address
        try:
            client.wait_for_workers(1, timeout=self.seconds)
        except (LateError, TimeoutError):
            raise MoloError(
                f"the Dask scheduler at {address} has no worker after {self.seconds:g} s; start"
                f" some with `dask worker {address}`, on every machine that is to work"
            ) from None
        return address

    def check(self) -> None:
        """Checks that the scheduler and its workers can do the work.

        Raises:
            MoloError: saying what is missing, and where.
        """
        wanted = assignments.environment(_PACKAGES)
        with self.connected() as connection:
            for where, found in connection.environments():
                assignments.check_environment(wanted, found, where)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Dask's log out: it prints a trace for each connection that is lost."""
    loggers = [std_logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(std_logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # Other versions of packages that matter are refused in one line.
            warnings.filterwarnings("ignore", "Mismatched versions found")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    from apache_beam.runners.dask.dask_runner import DaskOptions

    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    DaskOptions._add_argparse_args(parser)
    names = [name for action in parser._actions for name in action.option_strings]
    try:
        given, unknown = parser.parse_known_args(list(options))
    except argparse.ArgumentError as error:
        raise UsageError(f"--beam_pipeline_options: {error}") from None
    if unknown:
        name = unknown[0].partition("=")[0]
        close = difflib.get_close_matches(name, names, 1)
        known = f"did you mean {close[0][2:]}?" if close else f"it has {_listed(names)}"
        raise UsageError(
            f"--beam_pipeline_options: DaskRunner has no option {name.lstrip('-')}; {known}"
        )
    numbers = {
        "dask_connection_timeout": given.timeout,
        "dask_connection_limit": given.connection_limit,
        "dask_npartitions": given.npartitions,
        "dask_partition_size": given.partition_size,
    }
    for name, number in numbers.items():
        # Beam makes something else of a time that is no whole number.
        if number is not None and not (isinstance(number, int) and number >= 1):
            value = next(o.partition("=")[2] for o in options if o.startswith(f"--{name}="))
            raise UsageError(
                f"--beam_pipeline_options: {name}={value}; expected a whole number from 1 on"
            )
    return vars(given)


def _check_scheduler_file(file: str) -> None:
    """Checks that a file names a scheduler.

    Raises:
        UsageError: it is not there, or holds something else.
    """
    remedy = f"`dask scheduler --scheduler-file={file}` writes it"
    if not os.path.exists(file):
        raise UsageError(f"dask_scheduler_file={file} does not exist; {remedy}")
    try:
        with open(file, encoding="utf-8") as opened:
            names_one = isinstance(json.load(opened)["address"], str)
    except (OSError, ValueError, KeyError, TypeError):
        names_one = False
    if not names_one:
        raise UsageError(f"dask_scheduler_file={file} names no scheduler; {remedy}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name.lstrip("-") for name in names)


class Connection:
    """An open connection to a scheduler that has workers.

    Args:
        client: the connection.
        address: of the scheduler.
    """

    def __init__(self, client: Any, address: str):
        self._client, self.address = client, address

    def __str__(self) -> str:
        threads = self._client.nthreads()
        workers = plural(len(threads), "worker", "workers")
        slots = plural(sum(threads.values()), "thread", "threads")
        return f"{workers} with {slots} at {self.address}"

    def environments(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Names the scheduler and each worker, with the versions there.

        Raises:
            MoloError: one of them has not the packages at all.
        """
        function = assignments.environment
        where = f"the Dask scheduler at {self.address}"
        try:
            found = self._client.run_on_scheduler(function, _PACKAGES)
        except Exception as error:
            raise _without_package(where, error) from error
        yield where, found
        answers = self._client.run(function, _PACKAGES, on_error="return")
        for worker, answer in answers.items():
            where = f"the Dask worker {worker}"
            if isinstance(answer, Exception):
                raise _without_package(where, answer) from answer
            yield where, answer

    def warn_without_workers(self, stop: threading.Event, every: float) -> None:
        """Says from time to time that nobody works, until `stop` is set: Dask waits for ever."""
        while not stop.wait(every):
            with contextlib.suppress(Exception):
                if not self._client.nthreads():
                    logging.warning(
                        "the Dask scheduler at %s has no worker any more; the work goes on when one"
                        " joins it: `dask worker %s`",
                        *(self.address, self.address),
                    )


def _within(seconds: float, function: Callable[[], Any]) -> Any:
    """Calls a function that may never return.

    Raises:
        TimeoutError: it has not returned in this time; it goes on, in a thread that ends with the
            process.
    """
    answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            answers.put((function(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if error:
        raise error
    return value


def explained(error: Exception) -> str:
    """Says what an error of Dask means; an empty string for any other error."""
    if type(error).__name__ != "KilledWorker":
        return ""
    return (
        f"making one record file has ended {error.allowed_failures + 1} Dask workers, one after the"
        " other; the logs of the workers say why, too little memory for example"
    )


def _without_package(where: str, error: Exception) -> MoloError:
    missing = re.search(r"No module named '?([\w.]+)", str(error))
    what = (
        f"has no package {missing[1]}" if missing else f"cannot be asked for its versions: {error}"
    )
    return MoloError(
        f"{where} {what}; install the same versions there, with the extra dask:"
        ' pip install "molo-jax[dask]"'
    )
