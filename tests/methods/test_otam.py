"""Scores by ordered alignment against the recursion of the definition in NumPy."""

import numpy as np
import pytest


def _softest(smoothing, *costs):
    return -smoothing * np.log(sum(np.exp(-np.float64(cost) / smoothing) for cost in costs))


def _one_direction(distances, smoothing):
    rows = len(distances)
    d = np.pad(distances, ((0, 0), (1, 1)))
    last = d.shape[1] - 1
    cost = np.zeros_like(d)
    for m in range(1, last + 1):
        cost[0, m] = d[0, m] + cost[0, m - 1]
    for r in range(1, rows):
        for m in range(1, last + 1):
            before = [cost[r - 1, m - 1], cost[r, m - 1]]
            if m in (1, last):
                before.append(cost[r - 1, m])
            cost[r, m] = d[r, m] + _softest(smoothing, *before)
    return cost[-1, -1]


def _distance(a, b):
    return 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 0.01)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_scores_are_the_mean_costs_over_each_class_s_shots(
    build, episode, run, frame_features, smoothing
):
    task = episode((1, 0, 1, 1), (0, 1), frames=5)
    network = build("otam", smoothing=smoothing)
    support, query = (frame_features(network, clips) for clips in (task.support, task.query))
    costs = np.zeros((2, 4))
    for q in range(2):
        for s in range(4):
            grid = np.array([[_distance(a, b) for b in support[s]] for a in query[q]])
            costs[q, s] = sum(_one_direction(each, smoothing) for each in (grid, grid.T))
    expected = -np.stack([costs[:, 1], costs[:, [0, 2, 3]].mean(1)], axis=1)
    np.testing.assert_allclose(run(network, task, n_way=2).logits, expected, rtol=1e-4, atol=1e-5)
