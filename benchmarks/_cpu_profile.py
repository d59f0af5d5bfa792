"""One training step of each side on a CPU, taken apart: milliseconds by kind of operation."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# (kind, "forward" or "gradient") -> milliseconds.
Parts = dict[tuple[str, str], float]
# What is found in none of the parts that have a name.
OTHER = "everything else"
# Steps before the one that is taken apart.
_WARMUP = 2
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][\w\-]*)\(", re.M)
_SCOPE = re.compile(r"conv_\d+x\d+_on_\d+|batch_norm|relu|max_pool|upsample_conv|optimizer")
# Operations of XLA whose time is that of others.
_CALLS = frozenset({"while", "conditional", "call"})


def kind(scope: str) -> str:
    """The name of a row, from the name of what `molo_jax` computes."""
    convolution = re.fullmatch(r"conv_(\d+x\d+)_on_(\d+)", scope)
    if convolution:
        return f"convolution {convolution[1]} of maps of {convolution[2]} pixels a side"
    return {
        "batch_norm": "batch normalization and ReLU",
        "relu": "batch normalization and ReLU",
        "max_pool": "max pooling",
        "upsample_conv": "decoder: upsampling with its convolution",
        "optimizer": "optimizer, norm of the gradient",
    }.get(scope, OTHER)


def of_jax(options: dict[str, Any]) -> dict[str, Any]:
    """Takes a step of JAX apart, by the names of the traced parts of the network."""
    import jax
    from _jax import Benchmark

    step, arguments = Benchmark(options).step()
    program = jax.jit(step, donate_argnums=0).lower(*arguments).compile()
    state, chunk = arguments
    for _ in range(_WARMUP):
        state = jax.block_until_ready(program(state, chunk)[0])
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(state, chunk))
        (path,) = Path(folder).glob("**/*.xplane.pb")
        events = list(_events(jax.profiler.ProfileData.from_file(str(path))))
    memory = program.memory_analysis().temp_size_in_bytes
    return {"parts": by_part(spread(events), program.as_text()), "temporary_bytes": memory}


def _events(profile: Any) -> Iterable[tuple[int, int, str]]:
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name:
                    yield event.start_ns, event.start_ns + event.duration_ns, name


def spread(events: list[tuple[int, int, str]]) -> Counter[str]:
    """Spreads the time from the first to the last event over the operations, in milliseconds.

    Where several run, each gets its part. Where none is recorded, the one that began last goes on
    in other threads: XLA records only the start of a matrix product there.

    Args:
        events: start, end (nanoseconds) and operation.
    """
    moments = sorted(
        moment
        for number, (start, end, _) in enumerate(events)
        for moment in ((start, 1, number), (end, 0, number))
    )
    found: Counter[str] = Counter()
    running: set[int] = set()
    before, last = moments[0][0], moments[0][2]
    for time, begins, number in moments:
        for each in running or {last}:
            found[events[each][2]] += (time - before) / max(len(running), 1) / 1e6
        before = time
        if begins:
            running.add(number)
            last = number
        else:
            running.discard(number)
    return found


def by_part(milliseconds: Mapping[str, float], program: str) -> Parts:
    """Sums the time of XLA's operations by the parts of the network that they compute.

    Args:
        milliseconds: time of each operation.
        program: XLA's text of the program, with the name of what each operation comes from.
    """
    lines = {found[1]: found for found in _INSTRUCTION.finditer(program)}
    parts: Counter[tuple[str, str]] = Counter()
    for name, time in milliseconds.items():
        found = lines.get(name)
        if found is not None and found[2] in _CALLS:
            continue
        line = program[found.start() : program.find("\n", found.end())] if found else ""
        origin = re.search(r'op_name="([^"]*)"', line)
        origin = origin[1] if origin else ""
        scopes = _SCOPE.findall(origin)
        direction = "gradient" if "transpose(" in origin else "forward"
        parts[kind(scopes[-1] if scopes else ""), direction] += time
    return dict(parts)


def of_torch(options: dict[str, Any]) -> dict[str, Any]:
    """Takes a step of PyTorch apart, by the operations and the sizes of their operands."""
    import torch
    from _torch import Benchmark

    benchmark = Benchmark(options)
    for _ in range(_WARMUP):
        benchmark.run("training")
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        benchmark.run("training")
    parts: Counter[tuple[str, str]] = Counter()
    for event in profile.events():
        shapes = [tuple(each) for each in event.input_shapes]
        part = torch_part(_names(event), shapes, options["crop"])
        parts[part] += event.self_cpu_time_total / 1e3
    return {"parts": dict(parts)}


def _names(event: Any) -> list[str]:
    """The name of an event, and those of the events that it is a part of."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def torch_part(names: list[str], shapes: list[tuple[int, ...]], crop: int) -> tuple[str, str]:
    """Which part of the network an operation of PyTorch computes.

    Args:
        names: its name, and those of the operations that it is a part of.
        shapes: those of its operands.
        crop: side of the frames, pixels.
    """
    name = names[0]
    direction = "gradient" if any("ackward" in each for each in names) else "forward"
    if any(each.startswith("Optimizer.") or "clip_grad" in each for each in names):
        return kind("optimizer"), "forward"
    if "convolution" in name and len(shapes) > 2:
        maps, kernel = shapes[1:3] if "backward" in name else shapes[:2]
        if len(kernel) >= 4:
            if _decodes(maps, kernel, crop):
                return kind("upsample_conv"), direction
            return kind(f"conv_{kernel[-2]}x{kernel[-1]}_on_{maps[-1]}"), direction
    known = {
        "upsample": "upsample_conv",
        "max_pool": "max_pool",
        "batch_norm": "batch_norm",
        "threshold": "relu",
        "clamp_min": "relu",
    }
    scope = next((known[part] for part in known if any(part in each for each in names)), "")
    return kind(scope), direction


def _decodes(maps: tuple[int, ...], kernel: tuple[int, ...], crop: int) -> bool:
    """Whether a convolution is one of the three behind the upsamplings of the decoder."""
    of_decoder = {(128, crop // 16), (32, crop // 4), (16, crop)}
    return kernel[-1] == 3 and (kernel[0], maps[-1]) in of_decoder and maps[-1] != crop // 32


class Benchmark:
    """Serves both in a process of their own.

    Args:
        options: the sizes; `side` is "jax" or "torch".
    """

    def __init__(self, options: dict[str, Any]):
        self._options = options

    def profile(self) -> dict[str, Any]:
        return {"jax": of_jax, "torch": of_torch}[self._options["side"]](self._options)


def table(found: Mapping[str, dict[str, Any]]) -> list[str]:
    """The lines of the table, the slowest row first, and a line of totals."""
    columns = [(side, direction) for side in found for direction in ("forward", "gradient")]
    names = {name for side in found.values() for name, _ in side["parts"]}
    rows = {
        name: [found[side]["parts"].get((name, direction), 0.0) for side, direction in columns]
        for name in names
    }
    ordered = sorted(rows, key=lambda name: -sum(rows[name]))
    titles = {"jax": "JAX", "torch": "PyTorch"}
    head = [f"{titles[side]}, {direction}" for side, direction in columns]
    lines = [f"| milliseconds a step | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for name in ordered:
        lines.append(f"| {name} | {' | '.join(f'{value:.0f}' for value in rows[name])} |")
    sums = [sum(column) for column in zip(*rows.values(), strict=True)]
    return [*lines, f"| sum | {' | '.join(f'{value:.0f}' for value in sums)} |"]
