"""A decoder that crashes, hangs or takes its time where a file beside the video asks for it.

Loaded by a Dask worker before it begins (`dask worker --preload`), or used in place of the decoder.
"""

import os
import signal
import time

from molo_jax.data.store import assignments
from molo_jax.data.store.records import Settings
from molo_jax.data.video.encode import EncodedVideo, encode_or_reason

CRASH, ENDLESS, SLOW = "crash", "endless", "slow"


def ask_for(trouble: str, path: os.PathLike[str]) -> None:
    """Makes the decoder misbehave at a video."""
    with open(f"{os.fspath(path)}.trouble", "w") as file:
        file.write(trouble)


def troubled(path: str, settings: Settings) -> EncodedVideo | str:
    """Decodes a video, or does what is asked for."""
    trouble = ""
    if os.path.exists(f"{path}.trouble"):
        with open(f"{path}.trouble") as file:
            trouble = file.read()
    if trouble == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    if trouble == ENDLESS:
        while True:
            time.sleep(60)
    if trouble == SLOW:
        time.sleep(0.3)
    return encode_or_reason(path, settings)


def dask_setup(worker: object) -> None:
    """Called by Dask in the worker."""
    assignments.encode_or_reason = troubled
