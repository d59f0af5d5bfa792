"""Reads the event files of TensorBoard."""

import struct

from tensorboardX.proto.event_pb2 import Event


def events(workdir):
    """Yields the events in the folder `tensorboard` of a work folder."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
