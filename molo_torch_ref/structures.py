"""What goes into every network and comes out of it, whatever the method is."""

import dataclasses

from torch import Tensor

STRIDE = 32


@dataclasses.dataclass(frozen=True)
class Episode:
    """One few-shot task with its normalized pixels.

    Attributes:
        support, query: clips ``(s, t, 3, h, w)`` and ``(q, t, 3, h, w)``.
        support_labels, query_labels: class within the episode, ``0 .. n_way - 1``.
        support_classes, query_classes: index of the training class.
    """

    support: Tensor
    query: Tensor
    support_labels: Tensor
    query_labels: Tensor
    support_classes: Tensor
    query_classes: Tensor


@dataclasses.dataclass(frozen=True)
class Output:
    """What a forward pass computes; ``None`` is what a method does not have or was not asked for.

    Attributes:
        logits: scores of the episode's classes ``(q, n)``: predictions come from these.
        class_logits: scores of the training classes, support before query. MoLo scores videos,
            ``(s + q, k)``; HyRSM scores frames, ``((s + q) t, k)``, video after video.
        logits_s2q, logits_q2s, logits_s2q_motion, logits_q2s_motion: MoLo's negative long-short
            distances ``(q, n)``.
        reconstruction: decoded frame differences, support then query ``(s + q, t - 1, 3, h, w)``.
        reconstruction_target: differences of consecutive frames, in the same order.
        coherence: the temporal coherence term of HyRSM++, a scalar.
    """

    logits: Tensor
    class_logits: Tensor | None = None
    logits_s2q: Tensor | None = None
    logits_q2s: Tensor | None = None
    logits_s2q_motion: Tensor | None = None
    logits_q2s_motion: Tensor | None = None
    reconstruction: Tensor | None = None
    reconstruction_target: Tensor | None = None
    coherence: Tensor | None = None


def check_clips(support: Tensor, query: Tensor, least: int = 1, most: int | None = None) -> None:
    """Checks the shapes of an episode's clips.

    Args:
        support: clips that should be ``(s, t, 3, h, w)``.
        query: clips that should be ``(q, t, 3, h, w)``.
        least: the smallest number of frames that the network takes.
        most: the largest; ``None`` is without a limit.

    Raises:
        ValueError: naming the shape, and what was expected.
    """
    for name, clips in (("support", support), ("query", query)):
        shape = tuple(clips.shape)
        if len(shape) != 5 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"{name} clips have shape {shape}; expected (videos, frames, 3, h, w)")
        if shape[1] < least or (most is not None and shape[1] > most):
            expected = f"at least {least}" if most is None else f"{least} to {most}"
            expected = str(least) if least == most else expected
            raise ValueError(f"{name} clips have {shape[1]} frames; expected {expected}")
        if shape[3] % STRIDE or shape[4] % STRIDE:
            raise ValueError(f"{name} clips are {shape[3]}x{shape[4]}; expected multiples of 32")
    if support.shape[1:] != query.shape[1:]:
        raise ValueError(
            f"support clips are {tuple(support.shape[1:])}, query clips {tuple(query.shape[1:])};"
            " expected the same"
        )
