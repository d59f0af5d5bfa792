import logging
import os

import numpy as np
import pytest

from molo_jax.data.clips import source
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.data.clips.episodes import ClipRequest
from molo_jax.data.video.decode import BadVideoError
from molo_jax.errors import MoloError, UsageError


@pytest.fixture
def open_list(tmp_path):
    """Opens a list of the given lines over a folder of empty files of the given names."""

    def open_it(lines: list[str], files: list[str], on_bad_video: str = "fail"):
        for name in files:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "val_few_shot.txt").write_text("\n".join(lines))
        return VideoDataset.open(
            str(tmp_path / "videos"),
            str(tmp_path),
            "val",
            on_bad_video=on_bad_video,
            how_to_get="Ask the owner.",
        )

    return open_it


def request(class_position: int, video_position: int, frames: int = 3) -> ClipRequest:
    return ClipRequest(class_position, video_position, np.full(frames, 0.5))


def test_a_video_is_found_by_its_name_or_with_an_extension(open_list, tmp_path):
    names = ["1", "2", "3", "4", "5", "a.b"]
    files = ["1.mp4", "2.webm", "3.mkv", "4.avi", "5.mov", "a.b.mp4", "6.txt"]
    dataset = open_list([f"val0/{name}" for name in names], files)
    found = [os.path.relpath(dataset.path(0, i), tmp_path / "videos") for i in range(6)]
    assert found == files[:6]


def test_the_very_name_comes_before_one_with_an_extension(open_list):
    lines = ["val0//videos/x.avi", "val0/7"]
    dataset = open_list(lines, ["videos/x.avi", "videos/x.avi.mp4", "7.webm", "7.mp4"])
    assert dataset.path(0, 0).endswith("videos/videos/x.avi")
    assert dataset.path(0, 1).endswith("videos/7.mp4")


def test_a_folder_of_the_name_does_not_hide_the_file(open_list):
    dataset = open_list(["val0/7", "val0/8"], ["7/img_1.jpg", "7.webm", "8.mp4/img_1.jpg"])
    assert dataset.path(0, 0).endswith("videos/7.webm")
    with pytest.raises(BadVideoError, match=r"8\.mp4: cannot be opened: Is a directory"):
        dataset.read_clip(request(0, 1), sampling="segments", resize=32)


def test_a_missing_video_folder_is_named_with_the_remedy(tmp_path):
    with pytest.raises(MoloError) as error:
        VideoDataset.open(
            tmp_path / "none", tmp_path, "val", on_bad_video="skip", how_to_get="Ask the owner."
        )
    assert str(error.value) == f"the video folder {tmp_path}/none does not exist. Ask the owner."


def test_a_missing_split_list_is_named_with_the_remedy(tmp_path):
    with pytest.raises(MoloError) as error:
        VideoDataset.open(
            tmp_path, tmp_path / "s", "val", on_bad_video="skip", how_to_get="Ask the owner."
        )
    expected = f"the split list {tmp_path}/s/val_few_shot.txt does not exist. Ask the owner."
    assert str(error.value) == expected


def test_an_unknown_policy_is_refused(motion_data):
    folders = motion_data / "videos", motion_data / "splits"
    with pytest.raises(UsageError, match="on_bad_video is 'ignore'; expected 'fail' or 'skip'"):
        VideoDataset.open(*folders, "val", on_bad_video="ignore", how_to_get="")


def test_missing_videos_are_counted_and_named_with_their_lines(open_list):
    lines = [f"val{i % 2}/{i}" for i in range(9)]
    with pytest.raises(
        MoloError,
        match=r"7 of the 9 videos in .*val_few_shot\.txt are not in .*videos: 2 \(line 3\), "
        r"4 \(line 5\), 6 \(line 7\), 8 \(line 9\), 1 \(line 2\), …\. Set data.on_bad_video=skip .*"
        r"or get them: Ask the owner\.",
    ):
        open_list(lines, ["0.mp4", "3.mp4"])


def test_missing_videos_are_left_out_with_one_warning_if_asked_to(open_list, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = open_list(["val0/0", "val0/1", "val5/2"], ["1.mp4"], on_bad_video="skip")
    assert [record.getMessage().split(" are not in ")[0] for record in caplog.records] == [
        f"2 of the 3 videos in {dataset.split.path}"
    ]
    assert dataset.bad_count == 2
    assert dataset.bad_videos() == {f"{dataset.root}/0": "missing", f"{dataset.root}/2": "missing"}
    assert [dataset.is_bad(0, 0), dataset.is_bad(0, 1), dataset.is_bad(1, 0)] == [True, False, True]
    assert dataset.class_sizes == (2, 1)


def test_a_clip_shows_the_frames_that_its_draws_name(open_dataset, read_codes):
    dataset = open_dataset()
    clip = ClipRequest(2, 1, np.array([0.0, 0.4, 0.99]))
    # 17 // 3 = 5: frames 0, 5 + 2, 10 + 4. Two classes of 7 and 6 videos come before.
    pixels = dataset.read_clip(clip, sampling="segments", resize=24)
    assert pixels.shape == (3, 24, 24, 3)
    assert read_codes(pixels) == ([0, 7, 14], [14, 14, 14])
    still = dataset.read_clip(clip, sampling="segments", resize=24, static=True)
    assert read_codes(still) == ([7, 7, 7], [14, 14, 14])


def test_a_broken_video_is_recorded_and_warned_of_once(open_dataset, spoiled_videos, caplog):
    dataset = open_dataset(spoiled_videos, on_bad_video="skip")
    path = str(spoiled_videos / "2_1.mp4")
    assert not dataset.is_bad(0, 1)
    caplog.clear()  # the warning of the missing video
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(BadVideoError, match="not a video file"):
                dataset.read_clip(request(0, 1), sampling="segments", resize=24)
    assert dataset.is_bad(0, 1)
    assert dataset.bad_count == 2  # with the missing one
    assert dataset.bad_videos()[path].startswith("not a video file")
    (record,) = caplog.records
    assert record.name == source.__name__
    assert record.getMessage().startswith(f"bad video {path}: not a video file")
    assert record.getMessage().endswith("; left out of class 2")


def test_a_broken_video_is_not_recorded_where_it_ends_the_run(video_tree, open_dataset, tmp_path):
    for path in (video_tree / "videos").iterdir():
        (tmp_path / path.name).write_bytes(b"")
    dataset = open_dataset(tmp_path)
    with pytest.raises(BadVideoError, match="0 bytes"):
        dataset.read_clip(request(1, 1), sampling="segments", resize=24)
    assert dataset.bad_count == 0


def test_a_folder_that_cannot_be_listed_is_named(open_list, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        MoloError, match=r"cannot list the video folder .*videos: Permission denied"
    ):
        open_list(["val0/0"], ["0.mp4"])


def test_videos_are_found_in_another_layout_than_that_of_the_list(open_list):
    dataset = open_list(["val0//videos/air_drum/1.avi", "val1//videos/sit/2.avi"],
                        ["k/air drum/1.webm", "2.mp4"])  # fmt: skip
    assert dataset.path(0, 0) == f"{dataset.root}/k/air drum/1.webm"
    assert dataset.path(1, 0) == f"{dataset.root}/2.mp4"


def test_a_file_that_another_list_names_is_not_taken(open_list, tmp_path):
    lines = ["val0//sit/1.mp4", "val0//sit/2.mp4"]
    (tmp_path / "train_few_shot.txt").write_text("train0//run/2.mp4\n")
    dataset = open_list(lines, ["1.mp4", "run/2.mp4"], on_bad_video="skip")
    assert dataset.bad_videos() == {f"{dataset.root}/sit/2.mp4": "missing"}


def test_the_identity_of_videos_is_that_of_their_names_sizes_and_times(open_list, tmp_path):
    lines, videos = ["val0/0", "val1/1"], tmp_path / "videos"
    dataset = open_list(lines, ["0.mp4", "1.mp4"])
    for name in ("0.mp4", "1.mp4"):
        os.utime(videos / name, ns=(5, 5))
    same = dataset.identity()
    assert dataset.identity() == same
    os.utime(videos / "1.mp4", ns=(5, 6))
    assert dataset.identity() != same
    os.utime(videos / "1.mp4", ns=(5, 5))
    assert dataset.identity() == same
    (videos / "1.mp4").write_bytes(b"other")
    os.utime(videos / "1.mp4", ns=(5, 5))
    first = dataset.identity()
    assert first != same
    assert len(first) == 64
    (videos / "1.mp4").unlink()
    assert dataset.identity() not in (first, same)


def test_videos_that_were_found_to_be_bad_before_are_not_read(open_list):
    dataset = open_list(["val0/0", "val0/1"], ["0.mp4", "1.mp4"], on_bad_video="skip")
    dataset.note_bad({(0, 1): "cut off"})
    assert dataset.bad_places() == {(0, 1): "cut off"}
    assert dataset.is_bad(0, 1)
    dataset.note_bad({(0, 1): "another reason", (0, 0): "empty"})
    assert dataset.bad_places() == {(0, 1): "cut off", (0, 0): "empty"}
    strict = open_list(["val0/0"], ["0.mp4"], on_bad_video="fail")
    strict.note_bad({(0, 0): "cut off"})
    assert not strict.is_bad(0, 0)
