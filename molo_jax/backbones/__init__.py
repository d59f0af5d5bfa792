"""The backbones, networks of single frames: one table. Nothing here imports JAX.

A backbone is a Flax module `network(info, rngs=...)` whose call
`(frames, set_sizes=..., train=...)` returns named feature maps, the last of them (`info.output`)
of shape `(n, h / stride, w / stride, width)`.
"""

import dataclasses
import importlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone without building it.

    Attributes:
        name: as the configuration has it.
        network: the class of its module, as `module:class`, or the class itself.
        width: channels of its features.
        stride: pixels of a frame for one position of its maps; sides must be divisible by it.
        output: name of the features among its maps.
        depths: for a ResNet, blocks of the four stages.
        bottleneck: for a ResNet, whether a block has three convolutions.
        stem: for a ResNet, channels of the stem and inside the first stage; each further stage has
            twice as many.
        weights_file, weights_digest: torchvision's file of ImageNet weights, and its SHA-256.
        mean, std: the network sees `(pixel - mean) / std` of pixel values from 0 to 1.
    """

    name: str
    network: Any
    width: int
    stride: int
    output: str = "layer4"
    depths: tuple[int, ...] = ()
    bottleneck: bool = False
    stem: int = 64
    weights_file: str = ""
    weights_digest: str = ""
    mean: float = 0.45
    std: float = 0.225

    def build(self, rngs: Any) -> Any:
        """Returns the module with random weights."""
        network = self.network
        if isinstance(network, str):
            module, _, name = network.partition(":")
            network = getattr(importlib.import_module(module), name)
        return network(self, rngs=rngs)


def _resnet(depths: tuple[int, ...], bottleneck: bool, digest: str) -> BackboneInfo:
    name = f"resnet{2 + sum(depths) * (3 if bottleneck else 2)}"
    return BackboneInfo(
        name,
        "molo_jax.backbones.resnet:ResNet",
        width=2048 if bottleneck else 512,
        stride=32,
        depths=depths,
        bottleneck=bottleneck,
        # torchvision's names hold the beginning of the digest.
        weights_file=f"{name}-{digest[:8]}.pth",
        weights_digest=digest,
    )


# Every backbone by its name.
BACKBONES: dict[str, BackboneInfo] = {
    each.name: each
    for each in (
        _resnet(
            (2, 2, 2, 2),
            False,
            "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
        ),
        _resnet(
            (3, 4, 6, 3),
            False,
            "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
        ),
        _resnet(
            (3, 4, 6, 3),
            True,
            "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        ),
    )
}


def backbone_info(name: str) -> BackboneInfo:
    """Returns what is known of the backbone called `name`.

    Raises:
        ValueError: there is no such backbone; the message names those that there are.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name]
