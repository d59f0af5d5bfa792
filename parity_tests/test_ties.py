"""A near tie, at which float32 takes the other side, is told from a fault."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from parity_tests import kinks, torch_backend
from parity_tests.case import SMALL, Case
from parity_tests.golden import __main__ as command
from parity_tests.golden import replay, ties
from parity_tests.kinks import MINIMUM
from parity_tests.tolerances import GOLDEN, near_tie

TIED = Path("tied.npz")


@dataclasses.dataclass(frozen=True)
class Mixed(Case):
    """An episode between two others: the query clips are mixtures of them.

    Attributes:
        share: of the second episode.
    """

    share: float = 0.0

    def episode(self, number=0):
        first, second = super().episode(number), super().episode(number + 1)
        mixed = (1 - self.share) * first["query"] + self.share * second["query"]
        return first | {"query": mixed.astype(np.float32)}


MIXED = Mixed(**vars(SMALL))


class Computed:
    """What the tests share: two programs of the same network, compiled once."""

    def __init__(self):
        weights = MIXED.weights()
        self._single = kinks.Gradients(MIXED, weights)
        self._double = kinks.Gradients(MIXED, weights, double=True)

    @functools.cache  # noqa: B019 (there is one such object)
    def own(self, case, double=False):
        """What a precision computes with its own decisions."""
        return (self._double if double else self._single)(case.episode())

    def program(self, case, weights, *, double=False):
        """Stands in for `kinks.Gradients`, which would compile the program again."""
        del weights
        if double:
            return self._double
        return lambda episode: self.own(case)

    @functools.cached_property
    def tied(self):
        """An episode with a minimum over frames that float32 takes elsewhere than float64."""
        for share in self._shares():
            case = dataclasses.replace(MIXED, share=share)
            pairs = zip(_minima(self.own(case)), _minima(self.own(case, True)), strict=True)
            if any((single.taken != double.taken).any() for single, double in pairs):
                return case
        raise AssertionError("float32 and float64 agree even where two frames are equally near")

    def _shares(self):
        """Yields shares ever nearer to one at which the nearest frame changes."""
        low, high = 0.0, 0.5
        taken = [self._taken(share) for share in (low, high)]
        assert taken[0] != taken[1]
        while high - low > 1e-15:
            middle = (low + high) / 2
            if self._taken(middle) == taken[0]:
                low = middle
            else:
                high = middle
            if high - low < 1e-5:
                yield low
                yield high

    def _taken(self, share):
        found = _minima(self.own(dataclasses.replace(MIXED, share=share), True))
        return b"".join(kink.taken.tobytes() for kink in found)


def _minima(computed):
    return [kink for kink in computed[1] if kink.kind == MINIMUM]


@pytest.fixture(scope="module")
def computed():
    return Computed()


@pytest.fixture(scope="module")
def recorded(computed):
    """What PyTorch computes of the tied episode, as a file."""
    case = computed.tied
    reference = torch_backend.gradients(case, case.weights(), case.episode(), double=True)
    return replay.recorded(TIED, case, reference)


@pytest.fixture
def replayed(computed, monkeypatch):
    """Replays a file by the command; returns exit code."""

    def compute(file, backend, *, double=False):
        return computed.own(file.case, double)[0]

    def run(file):
        monkeypatch.setattr(command, "read", lambda path: file)
        return command.main([str(file.path), "--backend=jax"])

    monkeypatch.setattr(replay, "compute", compute)
    monkeypatch.setattr(kinks, "Gradients", computed.program)
    return run


def _changed(file, group, name, factor):
    values = file.arrays[group] | {name: file.arrays[group][name] * factor}
    return dataclasses.replace(file, arrays=file.arrays | {group: values})


def test_a_near_tie_is_decided_in_float64(recorded, replayed, capsys):
    ours = replay.compute(recorded, "jax")
    found = replay.findings(recorded, ours, GOLDEN["train", "resnet18"])
    assert {finding.group for finding in found if not finding.inside} == {"gradients"}
    assert replayed(recorded) == 0
    printed = capsys.readouterr().out
    assert "near tie: 1 of 40 minima over frames, margin " in printed
    margin = float(printed.partition("frames, margin ")[2].split()[0])
    assert 0 <= margin < near_tie(MINIMUM, "resnet18")
    assert "decided in float64: equal" in printed
    assert f"all inside, but for near ties: {TIED}" in printed


def test_a_fault_beside_a_near_tie_is_a_fault(recorded, replayed, capsys):
    # Both precisions differ from what was recorded.
    assert replayed(_changed(recorded, "grad", "backbone.4.0.conv1.weight", 1.02)) == 1
    printed = capsys.readouterr().out
    assert "fault: float64 is outside its bounds too: gradients, norm" in printed
    assert f"OUTSIDE the tolerance: {TIED}" in printed


@pytest.mark.parametrize("group", ["gradients", "stages", "outputs"])
def test_a_fault_of_float32_alone_beside_a_near_tie_is_a_fault(
    recorded, replayed, computed, monkeypatch, group
):
    own = computed.own

    def faulty(case, double=False):
        recording, decisions = own(case, double)
        if double:
            return recording, decisions
        name = min(recording[group])
        values = recording[group] | {name: recording[group][name] * 1.02}
        return recording | {group: values}, decisions

    monkeypatch.setattr(computed, "own", faulty)
    assert replayed(recorded) == 1
    verdict = ties.decide(recorded, replay.compute(recorded, "jax"))
    assert verdict.reason == "float64 is inside its bounds, and no near tie explains float32"


def test_a_fault_without_a_near_tie_is_a_fault(computed, replayed):
    case = MIXED
    reference = computed.own(case, True)[0]
    file = replay.recorded(TIED, case, reference)
    assert replayed(file) == 0
    ours = computed.own(case)[0]
    gradients = ours["gradients"] | {"scale": ours["gradients"]["scale"] * 1.02}
    verdict = ties.decide(file, ours | {"gradients": gradients})
    assert not verdict.near_tie
    assert verdict.reason.startswith("float64 is inside its bounds, and no near tie")


def test_a_decision_that_float32_takes_otherwise_where_it_is_clear_is_a_fault(
    computed, replayed, monkeypatch
):
    own = computed.own
    _, decisions = own(MIXED)
    number = next(n for n, kink in enumerate(decisions) if kink.kind == MINIMUM)
    wrong = [kink.taken for kink in decisions]
    wrong[number] = (wrong[number] + 1) % MIXED.frames
    # A program that computes another minimum: what it gives is what these decisions lead to.
    faulty, _ = computed.program(MIXED, None, double=True)(MIXED.episode(), wrong)
    kept = [dataclasses.replace(k, taken=t) for k, t in zip(decisions, wrong, strict=True)]
    gradients = own(MIXED)[0] | {"gradients": faulty["gradients"]}
    outputs = {group: faulty[group] for group in ("outputs", "losses")}
    monkeypatch.setattr(
        computed, "own", lambda c, d=False: own(c, d) if d else (gradients | outputs, kept)
    )
    file = replay.recorded(TIED, MIXED, own(MIXED, True)[0])
    assert replayed(file) == 1
    verdict = ties.decide(file, gradients | outputs)
    assert verdict.reason.startswith("float32 decides otherwise where it is clear: ")


def test_the_given_decisions_are_taken(computed):
    program = computed.program(MIXED, None, double=True)
    own, found = computed.own(MIXED, True)
    again, _ = program(MIXED.episode(), [kink.taken for kink in found])
    for group, values in own.items():
        for name, value in values.items():
            np.testing.assert_allclose(again[group][name], value, rtol=1e-9, atol=1e-12)
    assert sum(kink.flips for kink in found) == 0
    assert [kink.kind for kink in found].count(MINIMUM) == 4
