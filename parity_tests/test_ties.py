"""A near tie, at which float32 takes the other side, is told from a fault."""

import dataclasses
import functools
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from molo_torch_ref import Coefficients
from parity_tests import kinks, torch_backend
from parity_tests.case import SMALL, Case
from parity_tests.golden import __main__ as command
from parity_tests.golden import recipe, replay, ties
from parity_tests.kinks import MINIMUM
from parity_tests.tolerances import GOLDEN

TIED = Path("tied.npz")
pytestmark = pytest.mark.usefixtures("memory_of_a_test")

# The share of the second episode at which two frames of the support are equally near to a frame of
# the query, and where that is: the kink, and the place in it.
SHARE, PLACE = 0.161740677206, (0, 0, 1)


@dataclasses.dataclass(frozen=True)
class Tied(Case):
    """An episode whose query clips are mixtures, such that a minimum over frames is a near tie."""

    def episode(self, number=0):
        first, second = super().episode(number), super().episode(number + 1)
        mixed = (1 - SHARE) * first["query"] + SHARE * second["query"]
        return first | {"query": mixed.astype(np.float32)}


# The match loss, in which the tie is, counts most.
WEIGHTS = Coefficients(classification=0.08, contrast=0.005, reconstruction=0.01)
CASE = Tied(**vars(SMALL) | {"backbone": "resnet18", "coefficients": WEIGHTS})


class Computed:
    """What the tests share: three programs, compiled once, and what they compute.

    On which side of the tie float32 gets depends on the machine. It is given the side: with the
    decisions of float64 but that one, it computes what a machine does that rounds the other way.
    """

    def __init__(self):
        weights = CASE.weights()
        self._single = kinks.Gradients(CASE, weights)
        self._double = kinks.Gradients(CASE, weights, double=True)
        self._known = {}

    @functools.cached_property
    def exact(self):
        """Float64 with its own decisions."""
        return self.double(CASE.episode())

    @functools.cached_property
    def plain(self):
        """Float32 with the decisions of float64."""
        return self.single([kink.taken for kink in self.exact[1]])

    @functools.cached_property
    def flipped(self):
        """Float32 on the other side of the tie."""
        return self.single(self.decisions(other_side=PLACE))

    @functools.cached_property
    def clear(self):
        """Float32 that takes another frame where one is clearly the nearest."""
        gaps = self.exact[1][self.tie].gaps
        return self.single(self.decisions(np.unravel_index(np.argmax(gaps), gaps.shape)))

    def double(self, episode, decisions=None):
        """Float64 with given decisions: each run takes seconds, and most are asked for again."""
        key = None if decisions is None else sha256(b"".join(map(bytes, decisions))).digest()
        if key not in self._known:
            self._known[key] = self._double(episode, decisions)
        return self._known[key]

    def single(self, decisions):
        """Float32 with given decisions."""
        return self._single(CASE.episode(), decisions)

    @property
    def tie(self):
        """The number of the kink with the tie."""
        return next(n for n, kink in enumerate(self.exact[1]) if kink.kind == MINIMUM)

    def decisions(self, other_side):
        """Those of float64, but for the one at a place of the first minima."""
        taken = [np.array(kink.taken) for kink in self.exact[1]]
        taken[self.tie][other_side] = self.exact[1][self.tie].order[1][other_side]
        return taken


@pytest.fixture(scope="module", autouse=True)
def _arrays_are_probed_once():
    """Drawing the directions of all probes takes seconds, and most arrays are probed repeatedly."""
    probe, known = recipe.probe, {}

    def remembered(name, array):
        key = name, id(array)
        if key not in known:
            # With the array, so that no other one gets its number.
            known[key] = array, probe(name, array)
        return known[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "probe", remembered)
        yield


@pytest.fixture(scope="module")
def computed():
    return Computed()


@pytest.fixture(scope="module")
def recorded():
    """What PyTorch computes of the tied episode, as a file."""
    reference = torch_backend.gradients(CASE, CASE.weights(), CASE.episode(), double=True)
    return replay.recorded(TIED, CASE, reference)


@pytest.fixture
def replayed(computed, monkeypatch, recorded):
    """Replays a file by the command, with what float32 computes; returns the exit code."""

    def run(single, file=recorded):
        programs = {False: lambda episode: single, True: computed.double}
        computations = {False: single, True: computed.exact}
        monkeypatch.setattr(replay, "compute", lambda *_, double=False: computations[double][0])
        monkeypatch.setattr(kinks, "Gradients", lambda *_, double=False: programs[double])
        monkeypatch.setattr(command, "read", lambda path: file)
        return command.main([str(file.path), "--backend=jax"])

    return run


def _changed(computed, group, name):
    """What float32 computes, with one quantity that is off by 2 %."""
    recording, found = computed
    values = recording[group] | {name: recording[group][name] * 1.02}
    return recording | {group: values}, found


def test_without_a_tie_float32_is_inside(replayed, computed, capsys):
    assert replayed(computed.plain) == 0
    assert "1 file(s) replayed in jax: all inside\n" in capsys.readouterr().out


def test_a_near_tie_is_decided_in_float64(recorded, replayed, computed, capsys):
    found = replay.findings(recorded, computed.flipped[0], GOLDEN["train", "resnet18"])
    assert {finding.group for finding in found if not finding.inside} == {"gradients"}
    assert replayed(computed.flipped) == 0
    printed = capsys.readouterr().out
    assert "near tie: 1 of 40 minima over frames, margin " in printed
    margin = float(printed.partition("frames, margin ")[2].split()[0])
    assert margin == pytest.approx(computed.exact[1][computed.tie].gaps[PLACE], abs=1e-10)
    assert margin < 1e-8
    assert "appearance, query 0, class 0: of the support's frames 0 is nearest" in printed
    assert "frame 1, float32 takes 2); decided in float64: equal" in printed
    assert f"all inside, but for near ties: {TIED}" in printed


def test_a_fault_beside_a_near_tie_is_a_fault(recorded, replayed, computed, capsys):
    # Both precisions differ from what was recorded.
    name = "backbone.4.0.conv1.weight"
    values = recorded.arrays["grad"] | {name: recorded.arrays["grad"][name] * 1.02}
    faulty = dataclasses.replace(recorded, arrays=recorded.arrays | {"grad": values})
    assert replayed(computed.flipped, faulty) == 1
    printed = capsys.readouterr().out
    assert "fault: float64 is outside its bounds too: gradients, norm, 2.0e-02" in printed
    assert f"OUTSIDE the tolerance: {TIED}" in printed


@pytest.mark.parametrize(
    ("side", "group", "name"),
    [
        ("plain", "gradients", "backbone.4.0.conv1.weight"),
        ("flipped", "gradients", "backbone.4.0.conv1.weight"),
        ("flipped", "stages", "backbone.7/1"),
        ("flipped", "outputs", "logits"),
        ("flipped", "losses", "match"),
    ],
)
def test_a_fault_of_float32_alone_is_a_fault_with_and_without_a_near_tie(
    replayed, computed, capsys, side, group, name
):
    assert replayed(_changed(getattr(computed, side), group, name)) == 1
    text = "fault: float64 is inside its bounds, and no near tie explains float32"
    assert text in capsys.readouterr().out


def test_another_decision_where_it_is_clear_is_a_fault(replayed, computed, capsys):
    assert replayed(computed.clear) == 1
    printed = capsys.readouterr().out
    assert "fault: float32 decides otherwise where it is clear: 1 of 40 minima" in printed


def test_gradients_that_were_recorded_after_several_episodes_are_not_explained(computed):
    file = dataclasses.replace(replay.recorded(TIED, CASE, computed.exact[0]), kind="steps")
    verdict = ties.decide(file, computed.flipped[0])
    assert not verdict.near_tie
    assert verdict.reason == "a file of the kind steps has no gradients of one episode"


def test_given_decisions_lead_to_what_they_were_taken_from(computed):
    own, found = computed.exact
    again, forced = computed.double(CASE.episode(), [kink.taken for kink in found])
    for group, values in own.items():
        for name, value in values.items():
            np.testing.assert_allclose(again[group][name], value, rtol=1e-8, atol=1e-12)
    assert sum(kink.flips for kink in forced) == 0
    assert [kink.kind for kink in found].count(MINIMUM) == 4
