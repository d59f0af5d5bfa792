"""One process for each of what is compared, which computes when it is told to.

Processes of their own give each its own peak memory and keep its threads out of the way of the
others'; taking turns is up to the caller.
"""

import importlib
import multiprocessing
import os
import re
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from molo_jax.errors import MoloError

MODULES = {
    "jax": "_jax",
    "torch": "_torch",
    "operations": "_operations",
    "end_to_end": "_end_to_end",
    "official": "_official_way",
    "direct": "_our_way",
    "prepared": "_our_way",
    "limits": "_limits",
    "matching": "_matching",
    "sweep": "_sweep",
    "anew": "_anew",
    "banked": "_banked",
    "cpu_profile": "_cpu_profile",
}
# Seconds that a process is given to end.
_PATIENCE = 10


class Worker:
    """A process that holds one benchmark; calls wait for their result.

    Args:
        name: of the benchmark, one of `MODULES`.
        options: the benchmark's options.
        daemon: end the process with this one, whatever happens; such a process cannot have
            processes of its own.

    Raises:
        MoloError: the computation failed, or its process ended.
    """

    def __init__(self, name: str, options: dict[str, Any], daemon: bool = True):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, options), daemon=daemon)
        self._process.start()
        theirs.close()
        try:
            self._result()
        except MoloError:
            # By itself, so that it tidies up what its libraries have opened.
            self._process.join(_PATIENCE)
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def call(self, method: str, *values: Any) -> Any:
        """Calls a method of the benchmark in its process."""
        self._connection.send((method, values))
        return self._result()

    def stop(self) -> None:
        """Ends the process."""
        self._connection.close()
        if not self._process.daemon:
            # By itself, so that it ends its own processes.
            self._process.join(_PATIENCE)
        self._process.terminate()
        self._process.join()

    def _result(self) -> Any:
        try:
            failure, result = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            hint = "; it was killed, probably for want of memory" if code == -9 else ""
            raise MoloError(f"the {self.name} process ended with {code}{hint}") from None
        if failure:
            raise MoloError(f"{self.name}: {failure}")
        return result


def _serve(connection: Connection, name: str, options: dict[str, Any]) -> None:
    """Answers calls until the other side hangs up; a failure is sent as one line."""
    try:
        benchmark = importlib.import_module(MODULES[name]).Benchmark(options)
        connection.send((None, None))
        while True:
            method, values = connection.recv()
            connection.send((None, getattr(benchmark, method)(*values)))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return
    except Exception as error:
        connection.send((_one_line(error), None))


def _one_line(error: Exception) -> str:
    if isinstance(error, MoloError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def peak_resident_bytes() -> int:
    """Largest memory that this process has had in use, libraries included."""
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.M) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor() -> str:
    """Name of the CPU, with the number of cores that may be used."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{found[1] if found else 'CPU'}, {cores} cores"
