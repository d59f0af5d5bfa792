"""Where computations run and how: devices, compiled programs that are kept, determinism, profiles.

Importing this module does not import JAX, which reads some of what is set here when it starts.
"""

import contextlib
import errno
import glob
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LOGGER = logging.getLogger(__name__)
# The value of a setting that stands for the user's cache folder.
USERS_FOLDER = "user"
# On a GPU, XLA otherwise measures which kernel is the fastest, and adds in any order.
DETERMINISTIC_FLAG = "--xla_gpu_deterministic_ops=true"
# Seconds: a program that compiles faster is not worth a file.
_LEAST_COMPILE_SECONDS = 0.5
_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
# Flags of XLA that change results or speed; others are not worth a line.
_TOLD_FLAGS = ("deterministic", "autotune", "optimization_level", "fast_math", "device_count")


def prepare(*, deterministic: bool, compilation_cache: str) -> str:
    """Sets what JAX and XLA read when they start; to be called before JAX computes anything.

    Args:
        deterministic: results on a GPU are equal bit for bit from run to run, at some cost in
            speed. On a CPU they are in any case.
        compilation_cache: folder in which compiled programs are kept from one process to the next:
            `user` for a folder of the user's, empty for none. A folder that the environment names
            in `JAX_COMPILATION_CACHE_DIR` comes first.

    Returns:
        Why compiled programs are not kept although they should be; empty where they are.
    """
    if deterministic and DETERMINISTIC_FLAG not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC_FLAG}".strip()
    given = os.environ.get(_CACHE_VARIABLE)
    # JAX keeps programs in remote storage too, which only JAX can ask.
    if (given is not None and ("://" in given or not given)) or not (given or compilation_cache):
        return ""
    try:
        if given:
            folder = Path(given)
        elif compilation_cache == USERS_FOLDER:
            folder = users_folder()
        else:
            folder = Path(compilation_cache).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    # A user without a home folder is a RuntimeError.
    except (OSError, RuntimeError) as error:
        setting = _CACHE_VARIABLE if given else "--config.runtime.compilation_cache"
        return (
            f"compiled programs are not kept, so that the next start compiles again: {error}; name"
            f" another folder with {setting}=DIR"
        )
    if given:
        return ""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_COMPILE_SECONDS)
    return ""


def users_folder() -> Path:
    """Returns the user's folder for compiled programs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "molo_jax" / "compiled"


def description() -> list[str]:
    """Says in lines where and how JAX computes."""
    import jax

    devices, folder = jax.devices(), jax.config.jax_compilation_cache_dir
    kinds = sorted({device.device_kind for device in devices})
    lines = [
        f"JAX computes on the platform {devices[0].platform}, {len(devices)} device(s) of the kind"
        f" {', '.join(kinds)}",
        f"compiled programs are kept in {folder}" if folder else "compiled programs are not kept",
    ]
    given = os.environ.get("XLA_FLAGS", "").split()
    told = [flag for flag in given if any(part in flag for part in _TOLD_FLAGS)]
    return [*lines, f"XLA flags: {' '.join(told)}"] if told else lines


def unused_gpu() -> str:
    """Says that this machine has a GPU and JAX does not use it, and what helps; or nothing."""
    import jax

    found = nvidia_gpu() if jax.default_backend() == "cpu" else ""
    if not found:
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return (
            f"this machine has a GPU ({found}), and JAX computes on the CPU, because the"
            f" environment hides it: CUDA_VISIBLE_DEVICES={visible}; unset it to use the GPU"
        )
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked and not any(name in asked for name in ("cuda", "gpu")):
        return (
            f"this machine has a GPU ({found}), and JAX computes on the CPU, because the"
            f" environment says JAX_PLATFORMS={asked}; unset it to use the GPU"
        )
    return (
        f"this machine has a GPU ({found}), and JAX computes on the CPU, which is many times"
        ' slower; install JAX with CUDA: pip install "molo-jax[cuda]". If that is installed, the'
        " driver may be too old for it: compare nvidia-smi with JAX's installation page"
    )


def nvidia_gpu() -> str:
    """Names what shows that this machine has an NVIDIA GPU; an empty text where nothing does."""
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip()
    devices = sorted(glob.glob("/dev/nvidia[0-9]*"))
    # The tool nvidia-smi alone shows nothing: images for containers have it on any machine.
    if devices:
        return devices[0]
    # Windows' subsystem for Linux shows a GPU in another way.
    wsl = os.path.exists("/dev/dxg") and os.path.exists("/usr/lib/wsl/lib/libcuda.so.1")
    return "/dev/dxg, of Windows" if wsl else ""


class CacheUse:
    """Counts, in its `with` block, programs that were read from the cache and those compiled."""

    def __init__(self):
        self.read, self.compiled = 0, 0

    def __enter__(self) -> "CacheUse":
        import jax.monitoring

        jax.monitoring.register_event_listener(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        import jax.monitoring

        jax.monitoring.unregister_event_listener(self._count)

    def _count(self, event: str, **_: object) -> None:
        self.read += event == "/jax/compilation_cache/cache_hits"
        self.compiled += event == "/jax/compilation_cache/cache_misses"


def parse_steps(text: str) -> tuple[int, int] | None:
    """Returns the first and the last step of a range as `10:15`; None for an empty text.

    Raises:
        ValueError: the text is no such range.
    """
    if not text:
        return None
    first, last = text.split(":")
    return int(first), int(last)


def _say_untraced(steps: tuple[int, int], started: list[int]) -> None:
    if not started:
        _LOGGER.warning(
            "there is no trace: no step from %d to %d was made; --config.train.profile_steps names"
            " steps of the whole training, that this run must reach",
            *steps,
        )


def _stop_trace(folder: Path) -> None:
    import jax

    with _only_said("be written", folder):
        jax.profiler.stop_trace()


@contextlib.contextmanager
def _only_said(what: str, folder: Path) -> Iterator[None]:
    """Turns an error of the profiler into one line: a training need not end for it."""
    try:
        yield
    # Whatever XLA raises.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _LOGGER.warning(
            "a trace cannot %s in %s: %s; the training goes on without it", what, folder, reason
        )


@contextlib.contextmanager
def profiled(
    step: Callable[[Any, Any], Any], steps: tuple[int, int] | None, *, done: int, folder: Path
) -> Iterator[Callable[[Any, Any], Any]]:
    """Yields a training step some of whose calls are traced.

    Args:
        step: `(state, batch) -> (state, metrics)`.
        steps: numbers of the first and the last step of the trace; None: there is no trace.
        done: finished steps; the next call is step `done` + 1.
        folder: where the trace goes, which TensorBoard's profile plugin and XProf open.
    """
    import jax

    if steps is None:
        yield step
        return
    (first, last), numbers = steps, itertools.count(done + 1)
    # The step that the trace begins with: later than the first where training goes on behind it.
    started: list[int] = []
    with contextlib.ExitStack() as end, contextlib.ExitStack() as trace:
        end.callback(_say_untraced, steps, started)

        def traced(state: Any, batch: Any) -> Any:
            number = next(numbers)
            if not first <= number <= last:
                return step(state, batch)
            if not started:
                started.append(number)
                # What was started before is no part of the trace.
                jax.block_until_ready(state)
                with _only_said("be begun", folder):
                    jax.profiler.start_trace(str(folder))
                    trace.callback(_stop_trace, folder)
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                result = step(state, batch)
            if number == last:
                jax.block_until_ready(result)
                trace.close()
            return result

        yield traced
