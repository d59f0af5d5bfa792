"""A classifier of stick figures with the parts of a real one, which needs no network.

What it keeps of a clip are gray levels of its small pictures, and their changes from frame to
frame; clips are compared by the metrics of the package.
"""

import dataclasses
import hashlib
import math
from types import SimpleNamespace
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

from molo_jax.methods.evidence import BI_MHM, OTAM, Evidence, Metric, of_clips, of_prototypes
from molo_jax.nn import matching

UNKNOWN = "none of these"
MOTION_WEIGHT = 0.3


@dataclasses.dataclass(frozen=True)
class EmbeddedClip:
    name: str
    digest: str
    features: Any
    thumbnails: np.ndarray
    numbers: np.ndarray
    seconds: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Prediction:
    label: str
    nearest: str
    runner_up: str
    probability: float
    margin: float
    distances: dict[str, float]
    probabilities: dict[str, float]
    strangeness: float
    threshold: float | None
    clip: EmbeddedClip

    @property
    def name(self):
        return self.clip.name

    @property
    def known(self):
        return self.label != UNKNOWN


@dataclasses.dataclass(frozen=True)
class LeaveOneOut:
    clips: list
    labels: np.ndarray
    classes: tuple
    logits: np.ndarray

    @property
    def predicted(self):
        untested = np.isnan(self.logits).any(axis=1)
        return np.where(untested, -1, np.nan_to_num(self.logits, nan=-np.inf).argmax(axis=1))

    @property
    def confusion(self):
        counts = np.zeros((len(self.classes),) * 2, int)
        for label, predicted in zip(self.labels, self.predicted, strict=True):
            if predicted >= 0:
                counts[label, predicted] += 1
        return counts


@dataclasses.dataclass(frozen=True)
class Failure:
    name: str
    reason: str
    label: str = ""


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

    def __init__(self, method="molo"):
        title = {"molo": "MoLo", "otam": "OTAM", "bi_mhm": "Bi-MHM", "protonet": "ProtoNet"}[method]
        self.method = method
        self.network = SimpleNamespace(
            source="runs/figures",
            settings=SimpleNamespace(title=title, backbone="resnet18", method=method),
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

    def distances(self, support, labels, query, n_way):
        parts = self.evidence(support, labels, query, n_way).values()
        return np.float64(sum(each.weight * each.distances for each in parts)[0])


class Classifier:
    """Classifies clips by a support set.

    Args:
        support: class -> its clips.
        method: how clips are compared.
        limit: largest distance of a known clip, relative to the mean of the support set's own.
    """

    def __init__(self, support, method="molo", limit=None):
        self.support, self.embedder, self.threshold = support, Embedder(method), limit

    @property
    def classes_(self):
        return np.array(list(self.support), dtype=object)

    def _flat(self):
        clips = [each for clips in self.support.values() for each in clips]
        labels = [k for k, clips in enumerate(self.support.values()) for _ in clips]
        return clips, np.array(labels)

    def leave_one_out(self):
        clips, labels = self._flat()
        names = tuple(self.support)
        logits = np.full((len(clips), len(names)), np.nan)
        for i, (one, label) in enumerate(zip(clips, labels, strict=True)):
            others = [j for j in range(len(clips)) if j != i]
            if (labels == label).sum() > 1:
                support = [clips[j].features for j in others]
                logits[i] = -self.embedder.distances(
                    support, labels[others], one.features, len(names)
                )
        return LeaveOneOut(clips, labels, names, logits)

    def predict(self, one):
        clips, labels = self._flat()
        names = list(self.support)
        support = [each.features for each in clips]
        distances = self.embedder.distances(support, labels, one.features, len(names))
        order = np.argsort(distances, kind="stable")
        shares = np.exp(-2 * (distances - distances.min()))
        shares = dict(zip(names, (shares / shares.sum()).tolist(), strict=True))
        nearest, several = names[order[0]], len(names) > 1
        smallest = float(distances[order[0]])
        known = -np.nanmax(self.leave_one_out().logits, axis=1)
        strangeness = smallest / float(np.nanmean(known)) if self.threshold else math.nan
        return Prediction(
            label=UNKNOWN if self.threshold and strangeness > self.threshold else nearest,
            nearest=nearest,
            runner_up=names[order[1]] if several else "",
            probability=shares[nearest],
            margin=float(distances[order[1]]) - smallest if several else math.inf,
            distances=dict(zip(names, distances.tolist(), strict=True)),
            probabilities=shares,
            strangeness=strangeness,
            threshold=self.threshold,
            clip=one,
        )


def gym(method="molo", limit=None, shots=3):
    """Returns a classifier of three exercises with some clips each."""
    actions = ("squat", "lunge", "wave")
    support = {
        action: [clip(f"gym/{action}/{i}.mp4", action, seed=10 * k + i) for i in range(shots)]
        for k, action in enumerate(actions)
    }
    return Classifier(support, method, limit)
