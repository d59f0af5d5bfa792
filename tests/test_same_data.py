import pytest

from molo_jax import same_data
from molo_jax.data.clips.dataset import VideoDataset
from molo_jax.errors import MoloError
from molo_jax.provenance import ListRecord


@pytest.fixture
def source(motion_data):
    """The test split, as one of three processes opens it."""

    def opened(on_bad_video="skip"):
        folders = motion_data / "videos", motion_data / "splits", "test"
        return VideoDataset.open(*folders, on_bad_video=on_bad_video, how_to_get="")

    return opened


@pytest.fixture
def told(monkeypatch):
    """What this process tells the two others, of which the last knows a bad video."""
    said = []

    def gather_values(value):
        said.append(value)
        return [value, [], [[2, 1, "cut off"]]]

    monkeypatch.setattr(same_data.hosts, "count", lambda: 3)
    monkeypatch.setattr(same_data.hosts, "gather_values", gather_values)
    return said


def test_all_processes_leave_out_what_any_of_them_found_to_be_bad(source, told):
    videos = source()
    videos.note_bad({(0, 3): "empty"})
    shared = same_data.BadVideos(videos)
    shared.exchange()
    assert videos.bad_places() == {(0, 3): "empty", (2, 1): "cut off"}
    videos.note_bad({(1, 1): "no frames"})
    shared.exchange()
    # Each is told once, and not what was heard.
    assert told == [[[0, 3, "empty"]], [[1, 1, "no frames"]]]


def test_where_a_bad_video_ends_everything_nothing_is_exchanged(source, told):
    videos = source("fail")
    same_data.BadVideos(videos).exchange()
    assert (told, videos.bad_places()) == ([], {})


def test_processes_with_other_lists_are_refused(source, monkeypatch):
    videos = source()
    own = ListRecord.of("folder", videos.split).digest
    monkeypatch.setattr(same_data.hosts, "count", lambda: 3)
    monkeypatch.setattr(same_data.hosts, "gather_values", lambda value: [value, own, "other"])
    message = r"process 2 has another list of the test split than process 0 \(here: .*test_few_shot"
    with pytest.raises(MoloError, match=message):
        same_data.make_alike(videos, "folder")
