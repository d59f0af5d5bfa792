"""What programs hand over to a classifier, checked: clips, their classes, the unknown rule."""

import collections
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from molo_jax.errors import MoloError, UsageError, shortened
from molo_jax.prediction.clips import Source
from molo_jax.prediction.embedder import EmbeddedClip
from molo_jax.prediction.results import UNKNOWN

# Values of the unknown rule beside a number.
AUTO, OFF = "auto", "off"


def is_one(clips: Any) -> bool:
    """Whether what is given is one clip, and not several."""
    if isinstance(clips, (str, os.PathLike, EmbeddedClip)):
        return True
    return _is_pixels(clips) and clips.ndim < 5


def several(clips: Any) -> list[Any]:
    """Returns clips as a list: those of a list or an array (n, t, h, w, 3), or the only one.

    Raises:
        UsageError: what is given are no clips.
    """
    if is_one(clips):
        return [clips]
    if isinstance(clips, (bytes, Mapping)) or not isinstance(clips, Iterable):
        raise UsageError(
            f"{shortened(str(clips))} is no clip; expected a path, an array (t, h, w, 3) of uint8,"
            " or a list of these"
        )
    return list(clips)


def labels_of(labels: Any) -> list[str]:
    """Returns labels as a list of texts.

    Raises:
        UsageError: they are no list.
    """
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable):
        raise UsageError(f"the labels are {shortened(str(labels))}; expected a list of classes")
    return [str(label) for label in labels]


def named_clips(
    clips: Mapping[str, Sequence[Source]] | Iterable[Source], labels: Iterable[str] | None
) -> dict[str, list[Source]]:
    """Returns the clips of each class.

    Args:
        clips: the clips of each class; or all clips, with their classes in `labels`.
        labels: the class of each clip.

    Raises:
        UsageError: these are no clips of classes.
        MoloError: there are no classes, or not as many labels as clips.
    """
    if labels is not None:
        if isinstance(clips, Mapping):
            raise UsageError("the clips are given by class already; leave the labels out")
        clips, labels = several(clips), labels_of(labels)
        if len(clips) != len(labels):
            raise MoloError(f"there are {len(clips)} clips and {len(labels)} labels")
        gathered = collections.defaultdict(list)
        for clip, label in zip(clips, labels, strict=True):
            gathered[label].append(clip)
        clips = gathered
    if not isinstance(clips, Mapping):
        raise UsageError(
            "fit takes the clips of each class, {'squat': ['a.mp4'], …}, or a list of clips and a"
            " list of their classes"
        )
    if not clips:
        raise MoloError("there are no classes")
    return {_class_name(name): _members(name, each) for name, each in clips.items()}


def _class_name(name: Any) -> str:
    if not isinstance(name, str) or not name or name == UNKNOWN:
        raise UsageError(f"a class cannot be called {name!r}; expected a text of one's own")
    return str(name)


def _members(name: str, clips: Any) -> list[Source]:
    if isinstance(clips, (bytes, Mapping)) or not isinstance(clips, Iterable) or is_one(clips):
        raise UsageError(
            f"the clips of the class {name!r} are {shortened(str(clips))}; expected a list of paths"
            " or arrays"
        )
    return list(clips)


def _is_pixels(clips: Any) -> bool:
    return (
        hasattr(clips, "ndim")
        and getattr(clips, "dtype", None) is not None
        and (np.dtype(clips.dtype).kind in "uifb")
    )


def checked_unknown(value: str | float) -> str | float:
    """Returns the value of the unknown rule: `auto`, `off` or a number above 0.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(value, str) and value in (AUTO, OFF):
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UsageError(f"unknown={value}: expected auto, off or a number above 0, such as 1.3")
    return number
