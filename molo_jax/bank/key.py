"""What the features of a bank are of: everything that they depend on, by name.

Features are taken from a bank only where every value of its key is the one that is wanted. What a
key does not hold changes no more than the rounding of features: the device, the versions of the
libraries, and how many clips are embedded at once.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molo_jax.bank.description import DESCRIPTION
from molo_jax.errors import MoloError
from molo_jax.files import bytes_of, read_json, safe_name

# To be raised where the same inputs lead to other features: by another way of reading frames, of
# cropping them, or of computing a method.
FEATURES_VERSION = 2
BANKS = "bank"
_DIGITS = 16
_MOST_CHANGES, _LONGEST = 4, 60


@dataclasses.dataclass(frozen=True)
class BankKey:
    """The key of a bank.

    Attributes:
        values: what the features depend on; values that JSON has.
        about: what is known beside that and identifies nothing, such as the step of the network.
    """

    values: Mapping[str, Any]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        # As it comes back from a file.
        object.__setattr__(self, "values", json.loads(json.dumps(dict(self.values))))

    @property
    def digest(self) -> str:
        """SHA-256 of the values, hexadecimal."""
        text = json.dumps(self.values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def folder(self, root: Path) -> Path:
        """Returns the folder of the bank: `<dataset>_<split>_<16 digits>` in the one of banks."""
        name = f"{self.values['dataset']}_{self.values['split']}"
        return root / f"{safe_name(name)}_{self.digest[:_DIGITS]}"


def bank_key(
    *,
    weights: Mapping[Any, np.ndarray],
    seen: Mapping[str, Any],
    method: str,
    backbone: str,
    dataset: str,
    split: str,
    list_digest: str,
    data: str,
    sampling: str,
    seed: int,
    static: bool = False,
    about: Mapping[str, Any] | None = None,
) -> BankKey:
    """Returns the key of the features of a split.

    Args:
        weights: the network's parameters and statistics, by their paths.
        seen: see :func:`molo_jax.provenance.settings_seen`.
        method: name of the method.
        backbone: name of the network of single frames.
        dataset: name of the data set.
        split: name of the split; it enters the draws of the frames.
        list_digest: of the list of the split.
        data: of the videos, see :meth:`molo_jax.data.clips.source.ClipSource.identity`.
        sampling: how frames are chosen, one of `frames.SAMPLINGS`.
        seed: of the draws of the frames.
        static: whether one frame of each clip is shown again and again.
        about: what is written beside the key.
    """
    values = {
        "features": FEATURES_VERSION,
        "weights": weights_digest(weights),
        "method": method,
        "backbone": backbone,
        **seen,
        "data.sampling": sampling,
        "dataset": dataset,
        "split": split,
        "list": list_digest,
        "videos": data,
        # The window in the middle of a video has no random part.
        "seed": None if sampling == "window_middle" else seed,
        "one repeated frame": static,
    }
    return BankKey(values, dict(about or {}))


def weights_digest(weights: Mapping[Any, np.ndarray]) -> str:
    """Returns the SHA-256 of the names, types, shapes and bytes of all arrays, hexadecimal."""
    whole = hashlib.sha256()
    for path in sorted(weights, key=str):
        array = np.asarray(weights[path], order="C")
        whole.update(f"{path} {array.dtype} {array.shape}\0".encode())
        whole.update(array.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def differences(root: Path, key: BankKey) -> str:
    """Says in one line in what the bank differs that is most like a wanted one.

    Returns:
        The line; empty where there is no other bank.
    """
    found = []
    for path in sorted(root.glob(f"*/{DESCRIPTION}")):
        if path.parent == key.folder(root):
            continue
        try:
            stored = read_json(path, "")
            other = BankKey(stored["key"], stored["about"])
        # A damaged bank is no reason not to make another one.
        except (MoloError, LookupError, TypeError, ValueError):
            continue
        changed = _changed(other, key)
        if changed:
            found.append((len(changed), path.parent, changed))
    if not found:
        return ""
    _, folder, changed = min(found, key=lambda each: each[0])
    more = len(changed) - _MOST_CHANGES
    listed = "; ".join(changed[:_MOST_CHANGES]) + (f"; and {more} more" if more > 0 else "")
    size = bytes_of(path for other in found for path in other[1].iterdir()) / 2**20
    what = "1 other bank takes" if len(found) == 1 else f"{len(found)} other banks take"
    return (
        f"{folder.name} has other features: {listed} ({what} {size:,.0f} MiB in {root}, which can"
        " be removed)"
    )


def _changed(old: BankKey, new: BankKey) -> Sequence[str]:
    names = [*new.values, *(name for name in old.values if name not in new.values)]
    other_method = old.values.get("method") != new.values["method"]
    lines = []
    for name in names:
        values = [each.values.get(name) for each in (old, new)]
        # The settings of another method are other ones.
        if values[0] == values[1] or (other_method and name.startswith("method.")):
            continue
        if name == "weights":
            steps = [each.about.get("step") for each in (old, new)]
            shown = f" of step {steps[0]} -> {steps[1]}" if None not in steps else " changed"
            lines.append(f"weights{shown}")
        elif name in ("list", "videos"):
            lines.append(f"the {name} of the split changed")
        else:
            lines.append(f"{name} {_plain(values[0])} -> {_plain(values[1])}")
    return lines


def _plain(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
