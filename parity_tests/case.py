"""What both implementations compute: settings, weights and episodes, from names and seeds alone."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from molo_torch_ref import MoLo
from parity_tests.golden import recipe

# Official tensor name (without prefix) -> array in PyTorch's layout.
Tensors = Mapping[str, np.ndarray]
# Name -> array; `support` and `query` are normalized clips (v, t, 3, h, w), the rest labels.
Arrays = dict[str, np.ndarray]

DEFAULT_POSITION = (10.0, 1.0)
KINETICS_POSITION = (2048.0, 0.02)
# Drawing an episode needs numbers of about 2,018 times its seed, of 32 bits; the rest is for the
# episodes that follow it.
MAX_SEED = 2_000_000
# Buffers that are computed from the settings and not learnt.
FIXED = ("pe.pe",)


@dataclasses.dataclass(frozen=True)
class Case:
    """One computation.

    Attributes:
        backbone: `resnet18`, `resnet34` or `resnet50`.
        way, shot, query: classes, support clips of a class, query clips of a class.
        seed: of the first episode; it counts up from episode to episode.
        num_classes: number of training classes.
        position: A and B of the positional encoding.
        coefficients: weights of classification, contrast and reconstruction.
        accumulation: episodes of an optimizer step, as the loss counts them.
        frames, size: frames of a clip, side of the crop in pixels.
    """

    backbone: str = "resnet18"
    way: int = 2
    shot: int = 1
    query: int = 1
    seed: int = 0
    num_classes: int = 64
    position: tuple[float, float] = DEFAULT_POSITION
    coefficients: tuple[float, float, float] = (0.8, 0.05, 0.1)
    accumulation: int = 1
    frames: int = 8
    size: int = 224

    def network(self) -> dict:
        """Returns the arguments that both implementations' networks take; dropout is off."""
        return {
            "num_classes": self.num_classes,
            "backbone": self.backbone,
            "positional_a": self.position[0],
            "positional_b": self.position[1],
            "dropout_position": 0.0,
            "dropout_attention": 0.0,
            "dropout_feedforward": 0.0,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the official names and shapes of all tensors but the fixed buffers."""
        import torch

        with torch.device("meta"):
            state = MoLo(**self.network()).state_dict()
        return {name: tuple(t.shape) for name, t in state.items() if name not in FIXED}

    def weights(self, given: Tensors | None = None) -> dict[str, np.ndarray]:
        """Returns every tensor of the network, from the recipe where it is not given."""
        drawn = _drawn(self.backbone, self.num_classes)
        return drawn | {name: array for name, array in (given or {}).items() if name in drawn}

    def episode(self, number: int = 0) -> Arrays:
        """Returns the arrays of one episode."""
        raw = recipe.episode(
            self.seed + number,
            self.way,
            self.shot,
            self.query,
            self.num_classes,
            frames=self.frames,
            size=self.size,
        )
        names = {"support_real": "support_classes", "query_real": "query_classes"}
        return {names.get(name, name): array for name, array in raw.items()}


# Of one network, for those of all backbones are a gigabyte.
@functools.lru_cache(maxsize=1)
def _drawn(backbone: str, num_classes: int) -> dict[str, np.ndarray]:
    shapes = Case(backbone=backbone, num_classes=num_classes).shapes()
    return {name: recipe.weight(name, shape) for name, shape in shapes.items()}


# What the tests compute: small, for float64 is slow. A frame of FULL costs twelve times as much.
SMALL = Case(way=2, shot=1, query=1, frames=3, size=64, seed=3)
FULL = Case(way=2, shot=1, query=1, frames=3, size=224, seed=3)
UPDATE = Case(way=2, shot=1, query=1, frames=3, size=32, seed=5, accumulation=2)
