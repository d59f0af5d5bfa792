"""Scores of frame features by the bidirectional Hausdorff metric against loops in NumPy."""

import numpy as np


def _distance(a, b):
    return 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 0.01)


def test_scores_sum_the_nearest_frames_of_query_and_prototype(build, episode, run, frame_features):
    network, task = build("bi_mhm"), episode((1, 0, 1, 1), (0, 1), frames=3)
    support, query = (frame_features(network, clips) for clips in (task.support, task.query))
    prototypes = [support[1], (support[0] + support[2] + support[3]) / 3]
    expected = np.zeros((2, 2))
    for q in range(2):
        for label in range(2):
            grid = np.array([[_distance(a, b) for b in prototypes[label]] for a in query[q]])
            expected[q, label] = -(grid.min(0).sum() + grid.min(1).sum())
    np.testing.assert_allclose(run(network, task, n_way=2).logits, expected, rtol=1e-4)
