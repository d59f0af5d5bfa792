"""On which systems and Pythons this package runs; on others, importing it says so in one sentence.

The bounds are those of the wheels of JAX, TensorFlow and ArrayRecord. This file is read by every
Python that somebody may try, so it uses nothing that older ones do not know.
"""

import os
import sys
import sysconfig

# The first Python that is supported, and the first one that is not any more; `requires-python` of
# pyproject.toml says the same.
FIRST_PYTHON, END_OF_PYTHONS = (3, 11), (3, 14)
# System -> the processors, as the system calls them.
MACHINES = {"linux": ("x86_64", "aarch64"), "darwin": ("arm64",)}

_WINDOWS = (
    "molo-jax runs on Linux and macOS, and this is Windows; install it within Windows'"
    " subsystem for Linux (WSL 2), in which everything works as on Linux"
)
_MACHINES_ARE = "Linux on x86-64 or ARM (aarch64) and macOS on Apple silicon"


def obstacle(
    system: str, machine: str, pointer_bits: int, version: "tuple[int, ...]", soabi: str = ""
) -> str:
    """Says why the package cannot run there.

    Args:
        system: as `sys.platform` names it.
        machine: the processor, as `os.uname` names it.
        pointer_bits: 32 or 64.
        version: of Python.
        soabi: the tag of Python's extension modules, which names the C library.

    Returns:
        One sentence with the remedy; an empty text where it can run.
    """
    if system in ("win32", "cygwin", "msys"):
        return _WINDOWS
    if pointer_bits != 64:
        return (
            f"molo-jax needs a Python of 64 bits, and this one has {pointer_bits}; install one"
            " that was built for 64 bits"
        )
    if machine not in MACHINES.get(system, ()):
        remedy = "use a machine of these kinds"
        if (system, machine) == ("darwin", "x86_64"):
            remedy = (
                "on Apple silicon, use a Python that was built for it; Intel Macs cannot run it"
            )
        return (
            f"molo-jax runs on {_MACHINES_ARE}, and this Python is for {system} on"
            f" {machine or 'an unknown processor'}; {remedy}"
        )
    if "musl" in soabi:
        return (
            "molo-jax needs the C library glibc, and this Python is built for musl (Alpine Linux);"
            " use an image with glibc, such as Debian's or Ubuntu's"
        )
    if not FIRST_PYTHON <= version[:2] < END_OF_PYTHONS:
        *others, last = [f"3.{minor}" for minor in range(FIRST_PYTHON[1], END_OF_PYTHONS[1])]
        return (
            f"molo-jax needs Python {', '.join(others)} or {last}, and this is Python"
            f" {'.'.join(map(str, version[:3]))}; make an environment with one of these, for"
            f" example: python{last} -m venv .venv"
        )
    return ""


def check_platform() -> None:
    """Refuses to run where the package cannot.

    Raises:
        ImportError: with the reason and the remedy in one sentence.
        SystemExit: with code 2 and that sentence on stderr, where a command of the package starts.
    """
    machine = os.uname()[4] if hasattr(os, "uname") else ""
    bits = 64 if sys.maxsize > 2**32 else 32
    soabi = sysconfig.get_config_var("SOABI") or "" if sys.platform == "linux" else ""
    reason = obstacle(sys.platform, machine, bits, tuple(sys.version_info), soabi)
    if not reason:
        return
    if _starts_a_command():
        sys.stderr.write(f"error: {reason}\n")
        raise SystemExit(2)
    raise ImportError(reason)


def _starts_a_command() -> bool:
    """Whether the package is imported by `python -m molo_jax.…`, or by its script `molo-jax`."""
    # While `python -m` looks for the module, `-m` is the name of the program.
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    return program == "-m" or os.path.basename(program) == "molo-jax"
