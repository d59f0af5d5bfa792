"""What both implementations compute: settings, weights and episodes, from names and seeds alone."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from molo_torch_ref import Coefficients, make_network
from parity_tests.golden import recipe
from parity_tests.methods import METHODS, Method, is_fixed

# Official tensor name (without prefix) -> array in PyTorch's layout.
Tensors = Mapping[str, np.ndarray]
# Name -> array; `support` and `query` are normalized clips (v, t, 3, h, w), the rest labels.
Arrays = dict[str, np.ndarray]

DEFAULT_POSITION = (10.0, 1.0)
KINETICS_POSITION = (2048.0, 0.02)
COEFFICIENTS = Coefficients(classification=0.8, contrast=0.05, reconstruction=0.1, temporal=0.3)
# Drawing an episode needs numbers of about 2,018 times its seed, of 32 bits; the rest is for the
# episodes that follow it.
MAX_SEED = 2_000_000


@dataclasses.dataclass(frozen=True)
class Case:
    """One computation.

    Attributes:
        method: a name in `METHODS`.
        backbone: `resnet18`, `resnet34` or `resnet50`; in the tests those of `narrow.py` too.
        way, shot, query: classes, support clips of a class, query clips of a class.
        seed: of the first episode; it counts up from episode to episode.
        num_classes: number of training classes.
        position: A and B of the positional encoding.
        coefficients: weights of the loss terms.
        accumulation: episodes of an optimizer step, as the loss counts them.
        frames, size: frames of a clip, side of the crop in pixels.
        options: further arguments of the method's network, by name: `streams` and `matching` of
            MoLo, `smoothing` of OTAM, `prototypes_first` of HyRSM, …
        scaled: factors by which drawn weights are multiplied, by the tensor's name.
    """

    method: str = "molo"
    backbone: str = "resnet18"
    way: int = 2
    shot: int = 1
    query: int = 1
    seed: int = 0
    num_classes: int = 64
    position: tuple[float, float] = DEFAULT_POSITION
    coefficients: Coefficients = COEFFICIENTS
    accumulation: int = 1
    frames: int = 8
    size: int = 224
    options: tuple[tuple[str, Any], ...] = ()
    scaled: tuple[tuple[str, float], ...] = ()

    @property
    def names(self) -> Method:
        """The names of the method's outputs, losses and stages."""
        return METHODS[self.method]

    def network(self) -> dict:
        """Returns the arguments that both implementations' networks take; dropout is off."""
        settings = {
            "num_classes": self.num_classes,
            "backbone": self.backbone,
            "positional_a": self.position[0],
            "positional_b": self.position[1],
            "frames": self.frames,
        }
        settings = {name: settings[name] for name in self.names.arguments}
        return settings | dict.fromkeys(self.names.dropouts, 0.0) | dict(self.options)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the official names and shapes of all tensors but the fixed ones."""
        import torch

        with torch.device("meta"):
            state = make_network(self.method, **self.network()).state_dict()
        return {name: tuple(t.shape) for name, t in state.items() if not is_fixed(name)}

    def weights(self, given: Tensors | None = None) -> dict[str, np.ndarray]:
        """Returns every tensor of the network, from the recipe where it is not given."""
        drawn = _drawn(self.method, self.backbone, self.num_classes, self.options)
        scaled = {name: drawn[name] * np.float32(factor) for name, factor in self.scaled}
        given = {name: array for name, array in (given or {}).items() if name in drawn}
        return drawn | scaled | given

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


# The weights of one network: drawing them takes a second, keeping them 50 to 150 MB.
@functools.lru_cache(maxsize=1)
def _drawn(
    method: str, backbone: str, num_classes: int, options: tuple[tuple[str, Any], ...]
) -> dict[str, np.ndarray]:
    case = Case(method=method, backbone=backbone, num_classes=num_classes, options=options)
    return {name: recipe.weight(name, shape) for name, shape in case.shapes().items()}


# What the tests compute: small, for float64 is slow. A frame of FULL costs twelve times as much.
SMALL = Case(backbone="narrow18", way=2, shot=1, query=1, frames=3, size=64, seed=3)
FULL = Case(way=2, shot=1, query=1, frames=3, size=224, seed=3)
UPDATE = Case(
    backbone="narrow18", way=2, shot=1, query=1, frames=3, size=32, seed=5, accumulation=2
)
