"""Tells a near tie from a fault, where a float32 replay in JAX misses a bound.

Where two values at a kink are closer than the rounding of float32, float32 may take the other side,
and its gradients are then those of another, equally right side. Four things must hold for that:

1. In float64 the replay is inside bounds that are half as wide as those of float32.
2. Float64 by itself does not explain what float32 computed.
3. Float64 with the decisions of float32 does, within the usual bounds.
4. Each decision that float32 took in another way is so close that rounding explains it.

Otherwise the difference is a fault. Only gradients jump at a kink, so that a miss of anything else
is never explained.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from parity_tests import kinks
from parity_tests.golden import replay
from parity_tests.golden.files import GoldenFile
from parity_tests.kinks import MINIMA, MINIMUM, POOL, RELU, Kink
from parity_tests.recording import Recording
from parity_tests.tolerances import GOLDEN, GOLDEN_DOUBLE, near_tie

# Minima so close that both sides are tried: a program that also returns its decisions may round in
# another way than the one that missed a bound.
_MOST_TRIED = 3


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a missed bound means.

    Attributes:
        near_tie: whether near ties explain it; otherwise it is a fault.
        reason: what was found, in one line.
    """

    near_tie: bool
    reason: str


def decide(file: GoldenFile, ours: Recording) -> Verdict:
    """Finds out why a replay in float32 missed a bound.

    Args:
        file: the recorded values.
        ours: what JAX computed in float32.
    """
    if file.case.method != "molo":
        return Verdict(False, f"near ties of {file.case.method} are not looked for")
    if file.kind != "train":
        return Verdict(False, f"a file of the kind {file.kind} has no gradients of one episode")
    backbone = file.case.backbone
    exact = replay.compute(file, "jax", double=True)
    in_double = replay.findings(file, exact, GOLDEN_DOUBLE[file.kind, backbone])
    worst = max(in_double, key=lambda finding: finding.error / finding.bound)
    said = f"{worst.group}, {worst.measure}, {worst.error:.1e} of {worst.bound:.0e} ({worst.name})"
    if not all(finding.inside for finding in in_double):
        return Verdict(False, f"float64 is outside its bounds too: {said}")
    if _explains(file, exact, ours):
        return Verdict(False, "float32 is near float64, but too far from what was recorded")
    # Of a whole file each of these is some gigabytes: one at a time.
    del exact
    for forced, found in _tried(file):
        if _explains(file, forced, ours):
            if any(kink.margin > near_tie(kink.kind, backbone) for kink in found):
                return Verdict(
                    False, f"float32 decides otherwise where it is clear: {_text(found)}"
                )
            return Verdict(True, f"{_text(found)}; decided in float64: equal (worst: {said})")
        del forced, found
    return Verdict(False, "float64 is inside its bounds, and no near tie explains float32")


def _explains(file: GoldenFile, reference: Recording, ours: Recording) -> bool:
    """Whether float32 differs from a computation in float64 by no more than rounding."""
    expected = replay.recorded(Path("float64"), file.case, reference)
    bounds = GOLDEN[file.kind, file.case.backbone]
    return all(finding.inside for finding in replay.findings(expected, ours, bounds))


def _tried(file: GoldenFile) -> Iterator[tuple[Recording, list[Kink]]]:
    """Computes in float64 with the decisions of float32, then with each side of the near ties."""
    case = file.case
    weights, episode = case.weights(), case.episode()
    decisions = [kink.taken for kink in kinks.Gradients(case, weights)(episode)[1]]
    run = kinks.Gradients(case, weights, double=True)
    first = run(episode, decisions)
    # The places and the two nearest frames there, without the rest of this computation.
    places = sorted(_near_minima(first[1], near_tie(MINIMUM, case.backbone)))[:_MOST_TRIED]
    yield first
    del first
    for sides in itertools.product((0, 1), repeat=len(places)):
        tried = [np.array(taken) for taken in decisions]
        for side, (_, number, place, frames) in zip(sides, places, strict=True):
            tried[number][place] = frames[side]
        if any((a != b).any() for a, b in zip(tried, decisions, strict=True)):
            yield run(episode, tried)


def _near_minima(
    found: Sequence[Kink], most: float
) -> Iterator[tuple[float, int, tuple[int, ...], tuple[int, ...]]]:
    """Yields the minima that float32 may confuse: gap, number of the kink, place, two frames."""
    for number, kink in enumerate(found):
        if kink.kind == MINIMUM:
            for place in map(tuple, np.argwhere(kink.gaps <= most).tolist()):
                frames = tuple(int(order[place]) for order in kink.order)
                yield float(kink.gaps[place]), number, place, frames


def _text(found: Sequence[Kink]) -> str:
    """Says which decisions float32 took in another way, and by what margins."""
    parts = []
    for kind in (MINIMUM, RELU, POOL):
        these = [kink for kink in found if kink.kind == kind]
        flips = sum(int(kink.flips) for kink in these)
        if not flips:
            continue
        count = f"{flips} of {sum(kink.taken.size for kink in these):,} {kind}"
        margin = max(float(kink.margin) for kink in these)
        if kind == MINIMUM:
            parts.append(f"{count}, margin {margin:.1e} ({_minimum(these)})")
        else:
            parts.append(f"{count}, margin at most {margin:.1e} of their root mean square")
    return "; ".join(parts)


def _minimum(minima: Sequence[Kink]) -> str:
    """Names the flipped minimum with the largest margin."""
    number = max(range(len(minima)), key=lambda n: minima[n].margin)
    kink = minima[number]
    flipped = map(tuple, np.argwhere(kink.taken != kink.order[0]))
    query, way, frame = place = max(flipped, key=lambda place: kink.gaps[place])
    stream, over = MINIMA[number]
    other = "query" if over == "support" else "support"
    return (
        f"{stream}, query {query}, class {way}: of the {over}'s frames {kink.order[0][place]} is"
        f" nearest to the {other}'s frame {frame}, float32 takes {kink.taken[place]}"
    )
