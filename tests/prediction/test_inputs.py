import os

import pytest

from molo_jax.data.video.containers import BadVideoError
from molo_jax.errors import MoloError
from molo_jax.prediction import clips
from molo_jax.prediction.inputs import Query, list_support, list_videos


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_each_folder_is_a_class_with_all_that_lies_below_it(tmp_path):
    touch(tmp_path, "squat/b.mp4", "squat/monday/a.MOV", "прыжок/a.webm", ".hidden/a.mp4")
    found = list_support(tmp_path)
    assert found.classes == {
        "squat": [f"{tmp_path}/squat/b.mp4", f"{tmp_path}/squat/monday/a.MOV"],
        "прыжок": [f"{tmp_path}/прыжок/a.webm"],
    }
    assert found.notes == ()


def test_what_is_left_out_is_said(tmp_path):
    touch(tmp_path, "squat/a.mp4", "squat/notes.txt", "loose.mp4")
    (tmp_path / "empty").mkdir()
    (tmp_path / "squat/link.mp4").symlink_to(tmp_path / "nowhere")
    notes = "\n".join(list_support(tmp_path).notes)
    assert "left out: squat/link.mp4: a link to nothing" in notes
    assert "squat/notes.txt: no videos by their names, left out" in notes
    assert f"loose.mp4 in {tmp_path} itself: not in the folder of a class" in notes
    assert "the class 'empty' has no videos; it is left out" in notes


def test_a_folder_without_classes_is_refused_with_what_is_expected(tmp_path):
    touch(tmp_path, "a.mp4")
    with pytest.raises(MoloError, match=r"holds no clips of classes: expected a folder for each"):
        list_support(tmp_path)
    with pytest.raises(MoloError, match="the folder /absent does not exist"):
        list_support("/absent")
    with pytest.raises(MoloError, match="is no folder"):
        list_support(tmp_path / "a.mp4")


def test_a_file_stands_for_itself_and_a_folder_for_all_videos_below_it(tmp_path):
    touch(tmp_path, "a.mp4", "squat/b.mp4", "squat/deep/c.avi", "d.txt")
    assert list_videos(tmp_path / "a.mp4") == [Query(f"{tmp_path}/a.mp4")]
    assert list_videos("absent.mp4") == [Query("absent.mp4")]
    assert list_videos(tmp_path) == [
        Query(f"{tmp_path}/a.mp4"),
        Query(f"{tmp_path}/squat/b.mp4", "squat"),
        Query(f"{tmp_path}/squat/deep/c.avi", "squat"),
    ]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/d.txt").touch()
    with pytest.raises(MoloError, match="holds no videos"):
        list_videos(tmp_path / "none")


def test_what_cannot_be_read_in_a_folder_is_listed_and_has_a_reason(tmp_path, monkeypatch, caplog):
    touch(tmp_path, "a.mp4", "b.mp4/in.mp4", "closed/c.mp4")
    (tmp_path / "dead.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "again").symlink_to(tmp_path / "b.mp4")
    os.mkfifo(tmp_path / "squat.mp4")
    scandir = os.scandir

    def refusing(path):
        if str(path) == f"{tmp_path}/closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list_videos(tmp_path)
    assert [os.path.relpath(query.path, tmp_path) for query in found] == [
        *("a.mp4", "b.mp4/in.mp4", "closed", "dead.mp4", "loop.mp4", "squat.mp4"),
    ]
    assert f"{tmp_path}/again is not looked into: it is the same folder as" in caplog.text
    reasons = {}
    for query in found[2:]:
        with pytest.raises(BadVideoError) as caught:
            clips.identify(query.path)
        reasons[os.path.basename(query.path)] = caught.value.reason
    assert reasons == {
        "closed": "it is a folder that cannot be listed: Permission denied",
        "dead.mp4": "cannot be opened: No such file or directory",
        "loop.mp4": "cannot be opened: Too many levels of symbolic links",
        "squat.mp4": "it is no regular file",
    }
