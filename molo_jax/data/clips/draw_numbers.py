"""Which of the draws of its frames a video shows in an episode: a hash of counters.

No generator is seeded for it, so that the numbers of a whole table of episodes are computed at
once.
"""

import zlib
from typing import Any

import numpy as np
from jaxtyping import Int

# SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014):
# the step of its counter, and the two factors of its finalizer (Stafford's variant 13).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def draw_numbers(
    seed: int, split_name: str, indices: Any, classes: Any, videos: Any, draws: int
) -> Int[np.ndarray, "..."]:
    """Returns the number of the draw with which each episode shows each video.

    The number is h(h(h(h(h(seed) + split) + index) + class) + video) mod draws with 64-bit words,
    the CRC-32 of the split's name, and h the output function of SplitMix64: uniform and
    independent for all practical purposes, and a pure function of the arguments.

    Args:
        seed: of the episodes.
        split_name: name of the split.
        indices: numbers of the episodes.
        classes: positions of the classes in the split.
        videos: positions of the videos within their classes.
        draws: number of draws that each video has.

    Returns:
        int64 numbers below `draws`, of the shape to which the three arrays are broadcast.
    """
    words = [seed, zlib.crc32(split_name.encode()), indices, classes, videos]
    # What is behind the 64 bits of a word is dropped, which is meant.
    with np.errstate(over="ignore"):
        state = np.uint64(0)
        for word in words:
            state = _mixed(state + np.asarray(word).astype(np.uint64) + _STEP)
        return (state % np.uint64(draws)).astype(np.int64)


def _mixed(state: Any) -> Any:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))
