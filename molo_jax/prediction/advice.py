"""What a support set's own leave-one-out predictions say about it, in words."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Two classes are mixed up where so many of their clips, and this share of them, look like the
# other class.
_MIXED_CLIPS, _MIXED_SHARE = 2, 0.3


def advice(leave_one_out: Any) -> list[str]:
    """Says what is wrong with a support set, and what helps.

    Args:
        leave_one_out: what each support clip would be called by the others, see
            :class:`~molo_jax.prediction.classifier.LeaveOneOut`.

    Returns:
        Sentences, the most important first; none where nothing is wrong.
    """
    names, clips = list(leave_one_out.classes), leave_one_out.clips
    labels, predicted = (
        np.asarray(each) for each in (leave_one_out.labels, leave_one_out.predicted)
    )
    support: dict[str, list[Any]] = {name: [] for name in names}
    for clip, label in zip(clips, labels.tolist(), strict=True):
        support[names[label]].append(clip)
    return [
        *_same_files(support),
        *_lonely(support),
        *_mixed(names, labels, predicted),
        *_strange(names, labels, predicted, clips),
    ]


def _same_files(support: Mapping[str, Sequence[Any]]) -> list[str]:
    places = collections.defaultdict(list)
    for name, clips in support.items():
        for number, clip in enumerate(clips, 1):
            places[clip.digest].append((name, number, clip.name))
    found = []
    for same in places.values():
        if len(same) < 2:
            continue
        classes = list(dict.fromkeys(name for name, _, _ in same))
        files = " = ".join(dict.fromkeys(file for _, _, file in same))
        if len(classes) > 1:
            quoted = " and ".join(f"“{name}”" for name in classes)
            found.append(
                f"{files} is in {len(classes)} classes, {quoted}: leave the clip in the"
                " class that it shows"
            )
        else:
            numbers = " and ".join(str(number) for _, number, _ in same)
            found.append(
                f"class “{classes[0]}”: the clips {numbers} are the same video ({files}): keep one"
                " of them, for they recognize each other in every test"
            )
    return found


def _lonely(support: Mapping[str, Sequence[Any]]) -> list[str]:
    return [
        f"class “{name}” has one clip, so it cannot be tested: add a second"
        for name, clips in support.items()
        if len(clips) == 1
    ]


def _mixed(names: Sequence[str], labels: np.ndarray, predicted: np.ndarray) -> list[str]:
    found = []
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            tested = (predicted >= 0) & ((labels == a) | (labels == b))
            mixed = int(
                ((labels == a) & (predicted == b)).sum() + ((labels == b) & (predicted == a)).sum()
            )
            if mixed >= _MIXED_CLIPS and mixed >= _MIXED_SHARE * tested.sum():
                found.append(
                    f"the classes “{names[a]}” and “{names[b]}” are mixed up in {mixed} of"
                    f" {tested.sum()} clips: add clips that show the difference, or join them"
                )
    return found


def _strange(
    names: Sequence[str], labels: np.ndarray, predicted: np.ndarray, clips: Sequence[Any]
) -> list[str]:
    numbers = collections.Counter()
    found = []
    for label, other, clip in zip(labels.tolist(), predicted.tolist(), clips, strict=True):
        numbers[label] += 1
        if other >= 0 and other != label:
            found.append(
                f"class “{names[label]}”: clip {numbers[label]} ({clip.name}) looks like"
                f" “{names[other]}”"
            )
    return found
