"""Files of classifiers for tests, and ways to damage them."""

import hashlib
import io
import json
import zipfile

import jax
import numpy as np
import pytest

from molo_jax.errors import MoloError
from molo_jax.methods.molo_outputs import Tokens
from molo_jax.methods.settings import METHODS
from molo_jax.prediction.archive import ArchiveRecord, read_archive
from molo_jax.prediction.embedder import EmbeddedClip

NAME = "classifier.json"


def clip(name, seed, *, frames=3, seconds=True, size=(24, 40)):
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, size[1]).astype(np.uint8)
    pictures = np.broadcast_to(ramp[None, None, :, None], (frames, *size, 3)).copy()
    pictures[..., 0] += np.arange(frames, dtype=np.uint8)[:, None, None] * 20
    return EmbeddedClip(
        name=name,
        digest=hashlib.sha256(name.encode()).hexdigest(),
        features=Tokens(
            appearance=random.normal(size=(frames + 1, 5)).astype(np.float32),
            motion=random.normal(size=(frames, 5)).astype(np.float32),
        ),
        thumbnails=pictures,
        numbers=np.arange(frames) * 7,
        seconds=np.arange(frames) / 3 if seconds else None,
    )


def record(**changes):
    return ArchiveRecord(
        **{
            "settings": METHODS["molo"](num_classes=64, backbone="resnet18").to_json(),
            "rule": {"num_frames": 3, "sampling": "segments", "resize": 36, "crop": 32},
            "digest": "ab" * 32,
            "source": "runs/demo",
            "origin": "trained on 12 generated classes",
            "calibration": {"threshold": 1.25, "temperature": None, "rule": "auto"},
            "clips": {
                "жим лёжа": [clip("a.mp4", 1), clip("videos/スクワット.mov", 2, seconds=False)],
                "squat": [clip("c.avi", 3)],
                "empty": [],
            },
            "weights": {
                ("backbone", "layers", 0, "kernel"): np.arange(6, dtype=np.float32).reshape(2, 3),
                ("scale",): np.float32(0.5),
            },
        }
        | changes
    )


STRUCTURE = Tokens(
    appearance=jax.ShapeDtypeStruct((4, 5), np.float32),
    motion=jax.ShapeDtypeStruct((3, 5), np.float32),
)


def refusal(path):
    """Returns why a file is not read, without its name and the remedy."""
    with pytest.raises(MoloError) as error:
        read_archive(path)
    message = str(error.value)
    assert message.startswith(f"{path} ")
    assert "\n" not in message
    return message.removeprefix(f"{path} ").removesuffix("; save the classifier again")


def contents(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewrite(path, members, *, sums=True, compression=zipfile.ZIP_STORED):
    """Writes members as a malicious writer would: with the right checksums."""
    members = dict(members)
    if sums:
        header = json.loads(members[NAME])
        header["members"] = {
            name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != NAME
        }
        members[NAME] = json.dumps(header).encode()
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)


def with_header(path, change):
    members = contents(path)
    header = json.loads(members[NAME])
    change(header)
    rewrite(path, members | {NAME: json.dumps(header).encode()}, sums=False)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_header(text, data=b""):
    text = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data
