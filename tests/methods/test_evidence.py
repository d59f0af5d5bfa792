"""The parts of the scores add up to the scores; matched frames are those that the metric adds."""

import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from molo_jax.methods.evidence import Metric, best_path, matched
from molo_jax.methods.settings import METHODS

# Shots of the three classes: one, five, and uneven ones in no order.
SHOTS = {
    "1-shot": (0, 1, 2),
    "5-shot": (0,) * 5 + (1,) * 5 + (2,) * 5,
    "uneven": (1, 0, 2, 1, 1, 2),
}
# Method, its settings, and the names of its streams with their weights.
FRAMES = 5
VARIANTS = {
    "protonet": ("protonet", {}, {"match": 1.0}),
    "protonet euclidean": ("protonet", {"euclidean": True}, {"match": 1.0}),
    "bi_mhm": ("bi_mhm", {}, {"match": 1.0}),
    "otam": ("otam", {"smoothing": 0.2}, {"match": 1.0}),
    "trx": ("trx", {}, {"match": 1.0}),
    "hyrsm": ("hyrsm", {}, {"match": 1.0}),
    "hyrsm of each clip": ("hyrsm", {"prototypes_first": False}, {"match": 1.0}),
    "hyrsm_pp": ("hyrsm_pp", {}, {"match": 1.0}),
}


def test_every_method_but_molo_is_here():
    assert {method for method, _, _ in VARIANTS.values()} == METHODS.keys() - {"molo"}


def evidence_and_scores(network, task, *, n_way):
    """Embeds both sets and returns the evidence and the scores of one compiled program."""
    graphdef, state = nnx.split(network)

    @jax.jit
    def program(state, support, query, labels):
        model = nnx.merge(graphdef, state)
        features = model.embed(support), model.embed(query)
        return (
            model.evidence(*features, labels, n_way=n_way),
            model.match(*features, labels, n_way=n_way) + model.settings.smallest_distance,
        )

    found = program(state, task.support, task.query, task.support_labels)
    return jax.tree.map(np.asarray, found)


def of_classes(evidence, labels, n_way):
    """Computes the distances to classes from those of frames, in the words of the docstring."""
    distances = np.asarray(evidence.metric.distance(evidence.frames))
    if not evidence.each_clip:
        return distances
    labels = np.asarray(labels)
    return np.stack([distances[:, labels == each].mean(axis=1) for each in range(n_way)], axis=1)


def check(evidence, scores, labels, weights, frames):
    assert {name: each.weight for name, each in evidence.items()} == weights
    total = sum(each.weight * each.distances for each in evidence.values())
    assert np.abs(scores).max() > 0.01
    np.testing.assert_allclose(-total, scores, rtol=1e-5, atol=1e-5)
    for name, each in evidence.items():
        if frames[name] is None:
            assert each.frames is None
            assert each.metric is None
            continue
        count = len(labels) if each.each_clip else 3
        assert each.frames.shape == (2, count, frames[name], frames[name])
        again = of_classes(each, labels, 3)
        np.testing.assert_allclose(again, each.distances, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shots", SHOTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_streams_add_up_to_the_scores(build, episode, variant, shots):
    method, settings, weights = VARIANTS[variant]
    labels = SHOTS[shots]
    network, task = build(method, **settings), episode(labels, (0, 2), frames=FRAMES)
    evidence, scores = evidence_and_scores(network, task, n_way=3)
    frames = {"match": None if method in ("protonet", "trx") else FRAMES}
    check(evidence, scores, labels, weights, frames)
    each_clip = variant in ("otam", "hyrsm of each clip")
    assert evidence["match"].each_clip is each_clip


BOTH = {"appearance": 1.0, "motion": 0.3}
MOLO = {
    "as published": ({}, BOTH),
    "one half as heavy": ({"motion_weight": 0.5}, {"appearance": 1.0, "motion": 0.5}),
    "aligned": ({"matching": "otam", "smoothing": 0.2}, BOTH),
    "one direction": ({"single_direction": True}, BOTH),
    "appearance alone": ({"streams": "appearance"}, {"appearance": 1.0}),
    "motion alone": ({"streams": "motion"}, {"motion": 1.0}),
}


@pytest.mark.parametrize("shots", SHOTS)
@pytest.mark.parametrize("variant", MOLO)
def test_appearance_and_motion_add_up_to_the_scores_of_molo(build, episode, variant, shots):
    settings, weights = MOLO[variant]
    labels = SHOTS[shots]
    network, task = build("molo", **settings), episode(labels, (0, 2), frames=FRAMES)
    found = evidence_and_scores(network, task, n_way=3)
    # A change lies between two frames.
    check(*found, labels, weights, {"appearance": FRAMES, "motion": FRAMES - 1})


def one_by_one(cost):
    """Returns the cheapest way from left to right through a matrix, found by trying all ways.

    The rows that the columns are matched with never go up, and each step goes down by one row at
    most; before the first column and behind the last one, rows are left out for nothing. The first
    column may be matched with several rows.
    """
    rows, columns = cost.shape
    best = np.inf
    for chosen in itertools.product(range(rows), repeat=columns):
        if any(b - a not in (0, 1) for a, b in itertools.pairwise(chosen)):
            continue
        for first in range(chosen[0] + 1):
            # Down the first column from the row `first` on.
            down = cost[first : chosen[0], 0].sum()
            best = min(best, down + sum(cost[row, j] for j, row in enumerate(chosen)))
    return best


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (1, 4), (4, 1), (2, 2)])
def test_the_best_path_costs_as_little_as_the_best_of_all(shape):
    for seed in range(20):
        cost = np.random.default_rng(seed).uniform(0, 1, shape)
        path = best_path(cost)
        assert {j for _, j in path} == set(range(shape[1]))
        assert sum(cost[place] for place in path) == pytest.approx(one_by_one(cost))


@pytest.mark.parametrize("shape", [(4, 4), (5, 5), (3, 4)])
def test_the_pairs_of_an_alignment_are_what_its_distance_becomes_without_softening(shape):
    cost = np.random.default_rng(3).uniform(0.2, 1, shape).astype(np.float32)
    pairs = matched(cost, Metric("otam", smoothing=0.1))
    hard = float(Metric("otam", smoothing=1e-3).distance(cost[None, None])[0, 0])
    assert sum(cost[pair] for pair in pairs) == pytest.approx(hard, abs=0.01)


@pytest.mark.parametrize("single", [False, True])
def test_the_pairs_of_the_hausdorff_metric_add_up_to_its_distance(single):
    metric = Metric("bi_mhm", single_direction=single)
    cost = np.array([[0.1, 0.5, 0.9], [0.2, 0.6, 0.3]], np.float32)
    rows, columns = [(0, 0), (1, 0)], [(0, 0), (0, 1), (1, 2)]
    assert matched(cost, metric) == sorted(rows + ([] if single else columns))
    total = sum(cost[pair] for pair in matched(cost, metric))
    assert total == pytest.approx(float(metric.distance(cost[None, None])[0, 0]))
    assert total == pytest.approx(0.3 if single else 1.2)
