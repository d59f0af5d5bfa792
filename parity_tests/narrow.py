"""ResNets of a quarter of the channels: what float64 is compared with in the tests.

They are computed by the same code as those of full width, which the recorded values and the float32
comparisons at crop 224 use, and need a sixteenth of the memory and of the multiplications.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import molo_torch_ref.resnet
from molo_jax.backbones import BACKBONES

NARROW = {"resnet18": "narrow18", "resnet34": "narrow34", "resnet50": "narrow50"}
_SHARE = 4


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Has the narrow ResNets in the tables of both implementations in its `with` block."""
    ours, theirs = BACKBONES, molo_torch_ref.resnet.BACKBONES
    for full, name in NARROW.items():
        info = ours[full]
        ours[name] = dataclasses.replace(
            info, name=name, width=info.width // _SHARE, stem=info.stem // _SHARE
        )
        theirs[name] = dataclasses.replace(theirs[full], width=theirs[full].width // _SHARE)
    yield
    for name in NARROW.values():
        del ours[name], theirs[name]
