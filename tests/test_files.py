import errno
import os
from pathlib import Path

import pytest

from molo_jax.errors import MoloError
from molo_jax.files import write_json, written


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "/x/y cannot be written: No space left on device; make room, then run the"),
        (errno.EDQUOT, "/x/y cannot be written: .*; make room within your quota, then run"),
        (errno.EROFS, "/x/y cannot be written: Read-only file system; choose another folder"),
        (errno.EIO, "/x/y cannot be written: Input/output error$"),
    ],
)
def test_a_failed_write_names_the_file_the_reason_and_what_helps(code, message):
    with pytest.raises(MoloError, match=message), written("/x/y"):
        raise OSError(code, os.strerror(code))


def test_a_json_file_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "eval.json"
    write_json(path, {"accuracy": 0.5})

    def fill(self, text, **_):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(MoloError, match=f"{path} cannot be written: No space left on device"):
        write_json(path, {"accuracy": 0.75})
    assert path.read_text() == '{\n "accuracy": 0.5\n}\n'
    assert list(tmp_path.iterdir()) == [path]
