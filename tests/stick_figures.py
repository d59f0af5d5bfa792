"""A classifier of stick figures with the parts of a real one, which needs no network.

What it keeps of a clip are gray levels of its small pictures, and their changes from frame to
frame; clips are compared by the metrics of the package.
"""

import hashlib
import math
from types import SimpleNamespace

import cv2
import jax.numpy as jnp
import numpy as np

from molo_jax.methods.evidence import BI_MHM, OTAM, Evidence, Metric, of_clips, of_prototypes
from molo_jax.methods.settings import METHODS
from molo_jax.nn import matching
from molo_jax.prediction.classifier import Classifier
from molo_jax.prediction.embedder import EmbeddedClip

MOTION_WEIGHT = 0.3


def _off(x, y):
    return np.array([x, y])


def _limbs(action, phase, lean):
    """Returns the joints (x, y) of a body of height 1, at a phase from 0 to 1 of its action."""
    bend = math.sin(math.pi * phase)
    hip = _off(0.5 + lean, 0.55)
    left, right = _off(0.42 + lean, 0.95), _off(0.58 + lean, 0.95)
    hands = [_off(0.38 + lean, 0.55), _off(0.62 + lean, 0.55)]
    if action == "squat":
        hip = hip + _off(0, 0.22 * bend)
        hands = [hip + _off(0.22, -0.25), hip + _off(0.24, -0.22)]
    if action == "lunge":
        hip = hip + _off(0.05 * bend, 0.12 * bend)
        right = right + _off(0.22 * bend, 0)
        left = left - _off(0.08 * bend, 0)
    if action == "wave":
        hands[1] = _off(0.68 + lean + 0.1 * math.sin(5 * math.pi * phase), 0.12)
    if action == "jump":
        rise = _off(0, -0.18 * bend)
        hip, left, right = hip + rise, left + rise, right + rise
        hands = [_off(0.3 + lean, 0.1) + rise / 2, _off(0.7 + lean, 0.1) + rise / 2]
    shoulder = hip + _off(0, -0.3)
    knees = [(hip + foot) / 2 + _off(0.06, 0) for foot in (left, right)]
    return hip, shoulder, hands, knees, (left, right)


def picture(action, phase, lean, height=90, width=120, ground=(225, 230, 235), ink=(40, 60, 110)):
    """Draws a figure in a frame of a video."""
    image = np.full((height, width, 3), ground, np.uint8)
    image[int(0.94 * height) :] = np.array(ground) * 0.8
    side = 0.95 * height

    def at(joint):
        return int(width / 2 + (joint[0] - 0.5) * side), int(0.02 * height + joint[1] * side)

    hip, shoulder, hands, knees, feet = _limbs(action, phase, lean)
    bones = [(hip, shoulder), *((shoulder, hand) for hand in hands)]
    for knee, foot in zip(knees, feet, strict=True):
        bones += [(hip, knee), (knee, foot)]
    for a, b in bones:
        cv2.line(image, at(a), at(b), ink, 4, cv2.LINE_AA)
    cv2.circle(image, at(shoulder + _off(0, -0.1)), int(0.08 * side), ink, -1, cv2.LINE_AA)
    return image


def features(thumbnails):
    """Returns gray levels of frames (t, d), and their changes (t - 1, d)."""
    small = [
        cv2.resize(each, (12, 9), None, 0, 0, cv2.INTER_AREA).mean(axis=2) for each in thumbnails
    ]
    levels = np.stack(small).reshape(len(small), -1) / 255 - 0.85
    return {
        "appearance": np.float32(3 * levels),
        "motion": np.float32(6 * (levels[1:] - levels[:-1])),
    }


def clip(name, action, seed=0, frames=8, timed=True, **drawing):
    """Makes a clip of an action; the seed moves and tints it."""
    rng = np.random.default_rng(seed)
    lean, late = rng.uniform(-0.06, 0.06), rng.uniform(-0.1, 0.1)
    drawing = {"ink": tuple(int(x) for x in rng.integers(20, 130, 3))} | drawing
    phases = np.clip(np.linspace(0, 1, frames) + late, 0, 1)
    thumbnails = np.stack([picture(action, phase, lean, **drawing) for phase in phases])
    return EmbeddedClip(
        name=name,
        digest=hashlib.sha256(thumbnails.tobytes()).hexdigest(),
        features=features(thumbnails),
        thumbnails=thumbnails,
        numbers=np.arange(frames) * 6 + 3,
        seconds=(np.arange(frames) * 6 + 3) / 25 if timed else None,
    )


class Embedder:
    """Compares clips as one of the methods does.

    Args:
        method: `molo`, `otam`, `bi_mhm` or `protonet`.
    """

    def __init__(self, method):
        self.method, self.clips_at_once, self.embedded = method, 1, 0
        self.network = SimpleNamespace(
            source="runs/figures",
            settings=METHODS[method](num_classes=1, backbone="resnet18"),
            origin="trained on drawings",
        )

    def evidence(self, support, labels, query, n_way):
        labels, found = jnp.asarray(labels), {}
        streams = ("appearance", "motion") if self.method == "molo" else ("appearance",)
        for name in streams:
            shots = jnp.asarray(np.stack([each[name] for each in support]))
            one = jnp.asarray(query[name])[None]
            key = name if self.method == "molo" else "match"
            if self.method == "protonet":
                cosines = matching.cosines(one.mean(1)[:, None], shots.mean(1)[:, None])[:, :, 0, 0]
                found[key] = Evidence(-matching.class_means(cosines, labels, n_way))
            elif self.method == "otam":
                distances = matching.cosine_distances(one, shots)
                found[key] = of_clips(distances, Metric(OTAM, smoothing=0.1), labels, n_way)
            else:
                classes = matching.prototypes(shots, labels, n_way)
                distances = matching.cosine_distances(one, classes)
                weight = MOTION_WEIGHT if name == "motion" else 1.0
                found[key] = of_prototypes(distances, Metric(BI_MHM), weight)
        return found

    def embed(self, clips):
        assert clips == [], "clips are made with their features here"
        return []

    def logits(self, support, labels, query, n_way):
        rows = []
        for one in query:
            parts = self.evidence(support, labels, one, n_way).values()
            rows.append(-sum(each.weight * each.distances for each in parts)[0])
        return np.float32(rows)

    def leave_one_out(self, support, labels, n_way):
        scores = np.full((len(support), n_way), np.nan, np.float32)
        for i, label in enumerate(labels):
            others = [j for j in range(len(support)) if j != i]
            if label in labels[others]:
                rest = [support[j] for j in others]
                scores[i] = self.logits(rest, labels[others], [support[i]], n_way)[0]
        return scores


def classifier_of(support, method="molo", limit="off"):
    """Returns a classifier of classes and their clips."""
    return Classifier(Embedder(method), unknown=limit).fit(support)


def gym(method="molo", limit="off", shots=3):
    """Returns a classifier of three exercises with some clips each."""
    actions = ("squat", "lunge", "wave")
    support = {
        action: [clip(f"gym/{action}/{i}.mp4", action, seed=10 * k + i) for i in range(shots)]
        for k, action in enumerate(actions)
    }
    return classifier_of(support, method, limit)
