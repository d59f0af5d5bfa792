"""Evaluations without network and data: a video is a point, and the nearest class mean wins."""

import numpy as np

from molo_jax.analysis.outcome import Outcome

CLASSES, VIDEOS = 6, 12


def episodes(count, way, taken, *, seed=0, sizes=(VIDEOS,) * CLASSES):
    """Classes (e, w) and videos (e, w, taken), both without repetition."""
    random = np.random.default_rng(seed)
    classes = np.stack([random.permutation(len(sizes))[:way] for _ in range(count)])
    videos = [[random.permutation(sizes[c])[:taken] for c in row] for row in classes]
    return classes, np.array(videos)


def outcome(classes, videos, shot, *, spread=1.0, seed=0):
    """Predicts by points around a corner for each class; a small spread makes no mistakes."""
    random = np.random.default_rng(seed)
    count, most = classes.max() + 1, videos.max() + 1
    points = np.eye(count)[:, None] + spread * random.standard_normal((count, most, count))
    taken = points[classes[..., None], videos]
    means, queries = taken[:, :, :shot].mean(axis=2), taken[:, :, shot:]
    scores = -np.square(queries[:, :, :, None] - means[:, None, None]).sum(axis=-1)
    labels = np.arange(classes.shape[1])[:, None, None]
    true = np.take_along_axis(scores, labels[None] + np.zeros_like(scores, int)[..., :1], -1)
    others = np.where(labels == np.arange(classes.shape[1]), -np.inf, scores)
    return Outcome(classes, videos, shot, scores.argmax(-1), true[..., 0] - others.max(-1))


def header(**changes):
    """The identity of an evaluation, as the file of outcomes holds it."""
    names = [f"class {number}" for number in range(CLASSES)]
    return {
        "dataset": "ssv2",
        "split": "test",
        "list_digest": "0123",
        "seed": 0,
        "n_query": 1,
        "episodes": 200,
        "frame_draw": "video",
        "draws": 1,
        "class_names": names,
        "class_sizes": [VIDEOS] * CLASSES,
        "video_names": [[f"{name}/{v}.mp4" for v in range(VIDEOS)] for name in names],
        "bad_videos": {},
        "method": "molo",
        "title": "MoLo",
        "backbone": "resnet50",
        "checkpoint": "runs/a/best/10",
        "step": 10,
        "trained_on": "ssv2",
        "variant": "trained",
        "precision": "tf32",
        "num_frames": 8,
        "crop": 224,
    } | changes


def sweep(*, ways=(3, 5), shots=(1, 2), count=200, spread=1.0, seed=0, draw=0):
    """Outcomes by way and number of shots, whose episodes lie inside one another."""
    found = {}
    for way in ways:
        classes, videos = episodes(count, way, max(shots) + 1, seed=draw)
        for shot in shots:
            taken = videos[:, :, : shot + 1]
            found[way, shot] = outcome(classes, taken, shot, spread=spread, seed=seed)
    return found
