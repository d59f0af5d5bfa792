"""Scores of mean frame features against their definition in NumPy."""

import numpy as np
import pytest

LABELS, QUERIES = (1, 0, 1, 1), (0, 1)


@pytest.mark.parametrize("euclidean", [False, True])
def test_scores_follow_the_definition_with_unequal_shots(
    build, episode, run, frame_features, euclidean
):
    network, task = build("protonet", euclidean=euclidean), episode(LABELS, QUERIES)
    support, query = (
        frame_features(network, clips).mean(1) for clips in (task.support, task.query)
    )
    expected = np.zeros((2, 2))
    for q in range(2):
        for label, shots in ((0, [1]), (1, [0, 2, 3])):
            if euclidean:
                expected[q, label] = -np.sum((query[q] - support[shots].mean(0)) ** 2)
                continue
            for shot in shots:
                norms = np.linalg.norm(query[q]) * np.linalg.norm(support[shot])
                expected[q, label] += query[q] @ support[shot] / (norms + 0.01) / len(shots)
    np.testing.assert_allclose(run(network, task, n_way=2).logits, expected, rtol=1e-4)


def test_what_is_kept_of_a_clip_is_the_mean_of_its_frames(build, episode, frame_features):
    network, task = build("protonet"), episode(LABELS, QUERIES)
    expected = frame_features(network, task.query).mean(1)
    np.testing.assert_allclose(network.embed(task.query), expected, rtol=1e-4, atol=1e-6)
