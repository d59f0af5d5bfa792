"""What the builder writes, and what a kill, a full disk or a changed file costs."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from preparing import SIDE, make_plan, open_prepared, prepare_tree

from molo_jax.data.store import records, tfds_builder
from molo_jax.data.store.beam import Beam
from molo_jax.data.store.preparation import prepare
from molo_jax.data.store.processes import Lost
from molo_jax.data.store.records import Manifest, manifest_path, prepared_folder
from molo_jax.data.video.decode import decode_in_order, scan
from molo_jax.data.video.images import decode_jpegs, resize_frames
from molo_jax.errors import MoloError

VIDEOS = 25


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(records, "LEAST_SHARD_VIDEOS", 6)


class Counted:
    """Encodes in this process; fails at the call of a number, counted from 0."""

    def __init__(self, fail_at=None):
        self.paths, self.fail_at = [], fail_at

    def __call__(self, function, tasks, **options):
        for path, settings in tasks:
            if len(self.paths) == self.fail_at:
                raise KeyboardInterrupt
            self.paths.append(os.path.basename(path))
            yield function(path, settings)


def content(out: Path) -> dict[str, bytes]:
    """The record files and their manifests."""
    folder = prepared_folder(out, "folder")
    return {path.name: path.read_bytes() for path in folder.glob("*array_record*")}


@pytest.fixture(scope="module")
def expected(video_tree, tmp_path_factory):
    """The content after a preparation that nothing disturbed."""
    out = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "LEAST_SHARD_VIDEOS", 6)
        prepare_tree(video_tree, out, patch)
    return content(out)


def test_tfds_reads_the_data_set_in_the_order_of_the_list(video_tree, tmp_path, monkeypatch):
    prepare_tree(video_tree, tmp_path, monkeypatch)
    builder = tfds.builder_from_directory(str(prepared_folder(tmp_path, "folder")))
    assert builder.info.full_name == "few_shot_videos/folder/1.0.0"
    assert builder.info.splits["train"].shard_lengths == [6, 6, 6, 6, 1]
    source = builder.as_data_source("train")
    names = [source[i]["video"].decode() for i in range(len(source))]
    assert names == [
        f"{c}_{n}" for c, size in ((2, 7), (3, 6), (11, 5), (40, 7)) for n in range(size)
    ]
    record = source[9]
    assert (record["class_id"], record["length"], record["rate"].tolist()) == (3, 17, [25, 1])
    assert record["frame_numbers"].tolist() == list(range(17))
    path = str(video_tree / "videos/3_2.mp4")
    frames = [frame for _, frame in decode_in_order(path, scan(path), range(17))]
    stored = decode_jpegs(record["frames"], SIDE).astype(int)
    error = np.abs(stored - resize_frames(np.stack(frames), SIDE))
    assert error.max() <= 12


def test_two_preparations_give_the_same_bytes(video_tree, tmp_path, monkeypatch, expected):
    prepare_tree(video_tree, tmp_path, monkeypatch)
    assert content(tmp_path) == expected
    assert len(expected) == 10


def test_processes_give_the_same_bytes(video_tree, tmp_path, expected):
    prepare(make_plan(video_tree), tmp_path)
    assert content(tmp_path) == expected


def test_beam_gives_the_same_bytes(video_tree, tmp_path, expected):
    prepare(make_plan(video_tree), tmp_path, beam=Beam("DirectRunner"))
    assert content(tmp_path) == expected
    assert not list(tmp_path.glob("**/.*.part"))


def test_an_interrupted_preparation_goes_on_with_the_file_it_was_at(
    video_tree, tmp_path, monkeypatch, expected
):
    first, second = Counted(fail_at=15), Counted()
    monkeypatch.setattr(tfds_builder, "in_order", first)
    with pytest.raises(KeyboardInterrupt):
        prepare(make_plan(video_tree), tmp_path)
    assert not prepared_folder(tmp_path, "folder").exists()
    assert not list(tmp_path.glob("**/.*.part"))
    with pytest.raises(MoloError, match="no prepared videos"):
        open_prepared(tmp_path)
    monkeypatch.setattr(tfds_builder, "in_order", second)
    prepare(make_plan(video_tree), tmp_path)
    assert content(tmp_path) == expected
    # Of 15 videos 12 fill two record files.
    assert len(second.paths) == VIDEOS - 12
    assert second.paths[0] == first.paths[12]


def test_a_second_preparation_does_nothing(video_tree, tmp_path, monkeypatch, expected):
    prepare_tree(video_tree, tmp_path, monkeypatch)
    again = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", again)
    report = prepare(make_plan(video_tree), tmp_path)
    assert again.paths == []
    assert report.to_json()["splits"]["train"]["usable"] == VIDEOS
    assert content(tmp_path) == expected


def test_what_has_come_or_changed_is_prepared_and_no_more(
    video_tree, tmp_path, monkeypatch, expected
):
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in (video_tree / "videos").iterdir():
        os.link(path, videos / path.name)
    (videos / "3_1.mp4").unlink()
    good = (videos / "40_6.mp4").read_bytes()
    (videos / "40_6.mp4").unlink()
    (videos / "40_6.mp4").write_bytes(good[:100])
    prepare_tree(video_tree, tmp_path / "out", monkeypatch, videos=videos)
    assert open_prepared(tmp_path / "out", "skip").bad_count == 2
    os.link(video_tree / "videos/3_1.mp4", videos / "3_1.mp4")
    (videos / "40_6.mp4").write_bytes(good)
    again = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", again)
    prepare(make_plan(video_tree, videos), tmp_path / "out")
    assert again.paths == ["3_1.mp4", "40_6.mp4"]
    records = {n: c for n, c in content(tmp_path / "out").items() if not n.endswith("json")}
    assert records == {name: expected[name] for name in records}
    assert open_prepared(tmp_path / "out").bad_count == 0


def test_other_settings_are_refused_and_harm_nothing(video_tree, tmp_path, monkeypatch, expected):
    prepare_tree(video_tree, tmp_path, monkeypatch)
    with pytest.raises(MoloError, match=r"holds .*quality 95.*; asked for is .*quality 90"):
        prepare_tree(video_tree, tmp_path, monkeypatch, quality=90)
    assert content(tmp_path) == expected


def test_files_of_another_list_do_not_stay(video_tree, tmp_path, monkeypatch):
    prepare_tree(video_tree, tmp_path, monkeypatch)
    lists = tmp_path / "short"
    (lists / "splits").mkdir(parents=True)
    lines = (video_tree / "splits/train_few_shot.txt").read_text().splitlines(keepends=True)
    (lists / "splits/train_few_shot.txt").write_text("".join(lines[:13]))
    prepare(make_plan(lists, video_tree / "videos"), tmp_path)
    names = sorted(n for n in content(tmp_path) if not n.endswith("json"))
    assert [name[-14:] for name in names] == [f"0000{i}-of-00003" for i in range(3)]
    assert open_prepared(tmp_path).class_sizes == (7, 6)


@pytest.mark.parametrize("linked", [True, False])
def test_what_a_kill_left_between_two_folders_is_put_together(
    video_tree, tmp_path, monkeypatch, expected, linked
):
    prepare_tree(video_tree, tmp_path, monkeypatch)
    final = prepared_folder(tmp_path, "folder")
    work, left = final.with_name("1.0.0.unfinished"), final.with_name("incomplete.ABC123_1.0.0")
    final.rename(work)
    left.mkdir()
    for path in sorted(work.glob("*array_record*"))[:5]:
        (os.link if linked else os.rename)(path, left / path.name)
    nothing = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", nothing)
    prepare(make_plan(video_tree), tmp_path)
    assert nothing.paths == []
    assert content(tmp_path) == expected
    assert [p.name for p in final.parent.iterdir() if p.is_dir()] == ["1.0.0"]


def copied(video_tree, folder: Path) -> Path:
    """The videos under other paths."""
    folder.mkdir()
    for path in (video_tree / "videos").iterdir():
        os.link(path, folder / path.name)
    return folder


def test_videos_that_were_moved_are_not_decoded_again(video_tree, tmp_path, monkeypatch, expected):
    prepare_tree(video_tree, tmp_path / "out", monkeypatch)
    again = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", again)
    prepare(make_plan(video_tree, copied(video_tree, tmp_path / "v")), tmp_path / "out")
    assert again.paths == []
    assert content(tmp_path / "out") == expected


def test_the_frames_of_a_video_that_is_gone_are_kept(video_tree, tmp_path, monkeypatch):
    videos = copied(video_tree, tmp_path / "v")
    prepare_tree(video_tree, tmp_path / "out", monkeypatch, videos=videos)
    for path in list(videos.iterdir())[3:]:
        path.unlink()
    again = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", again)
    report = prepare(make_plan(video_tree, videos), tmp_path / "out")
    assert again.paths == []
    assert report.to_json()["splits"]["train"]["usable"] == VIDEOS
    assert open_prepared(tmp_path / "out").bad_count == 0


def test_a_longer_list_costs_its_new_videos_alone(video_tree, tmp_path, monkeypatch, expected):
    lists = tmp_path / "short"
    (lists / "splits").mkdir(parents=True)
    lines = (video_tree / "splits/train_few_shot.txt").read_text().splitlines(keepends=True)
    (lists / "splits/train_few_shot.txt").write_text("".join(lines[:3] + lines[5:13]))
    prepare_tree(lists, tmp_path / "out", monkeypatch, videos=video_tree / "videos")
    again = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", again)
    prepare(make_plan(video_tree), tmp_path / "out")
    names = [line.split("/")[1].strip() for line in lines]
    assert again.paths == [f"{name}.mp4" for name in names[3:5] + names[13:]]
    assert content(tmp_path / "out") == expected


def test_a_failure_that_may_pass_is_tried_again(video_tree, tmp_path, monkeypatch, expected):
    class Late(Counted):
        def __call__(self, function, tasks, **options):
            for path, settings in tasks:
                late = os.path.basename(path) == "3_3.mp4"
                yield Lost("decoding it took longer than 1 s") if late else function(path, settings)

    monkeypatch.setattr(tfds_builder, "in_order", Late())
    report = prepare(make_plan(video_tree), tmp_path)
    assert report.to_json()["splits"]["train"]["unreadable"] == 1
    again = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", again)
    prepare(make_plan(video_tree), tmp_path)
    assert again.paths == ["3_3.mp4"]
    assert content(tmp_path) == expected


def test_other_videos_of_the_same_name_of_a_data_set_are_refused(
    video_tree, tmp_path, monkeypatch, write_video, expected
):
    prepare_tree(video_tree, tmp_path / "out", monkeypatch)
    write_video(tmp_path / "b/videos/other.mp4")
    (tmp_path / "b/splits").mkdir()
    (tmp_path / "b/splits/train_few_shot.txt").write_text("train0/other\n")
    with pytest.raises(MoloError, match=r"holds other videos of folder, such as 2_0\. Remove"):
        prepare_tree(tmp_path / "b", tmp_path / "out", monkeypatch)
    assert content(tmp_path / "out") == expected


def test_a_damaged_record_file_is_made_anew_once_it_is_removed(
    video_tree, tmp_path, monkeypatch, expected
):
    prepare_tree(video_tree, tmp_path, monkeypatch)
    next(prepared_folder(tmp_path, "folder").glob("*-00002-of-00005")).unlink()
    again = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", again)
    prepare(make_plan(video_tree), tmp_path)
    assert len(again.paths) == 6
    assert content(tmp_path) == expected


def test_a_split_without_a_usable_video_is_an_error(video_tree, tmp_path, monkeypatch):
    videos = tmp_path / "videos"
    videos.mkdir()
    for path in (video_tree / "videos").iterdir():
        (videos / path.name).touch()
    with pytest.raises(MoloError, match=r"no video of the train split .*the file is empty"):
        prepare_tree(video_tree, tmp_path / "out", monkeypatch, videos=videos)


def test_videos_that_change_their_split_and_class_are_copied_and_not_decoded(
    video_tree, tmp_path, monkeypatch
):
    plan = make_plan(video_tree)
    (listed,) = plan.lists.values()
    first = [video for video in listed if video.class_id != 40]
    moved = [video for video in listed if video.class_id == 40]
    counted = Counted()
    monkeypatch.setattr(tfds_builder, "in_order", counted)
    out = tmp_path / "out"
    prepare(dataclasses.replace(plan, lists={"train": listed}), out)
    decoded = len(counted.paths)
    test = [dataclasses.replace(video, class_id=0, class_name="new") for video in moved]
    divided = dataclasses.replace(plan, lists={"train": first, "test": test})
    prepare(divided, out)
    assert decoded == len(counted.paths) == len(listed)
    # The same as a preparation that decodes everything.
    prepare(divided, tmp_path / "anew")
    assert content(out) == content(tmp_path / "anew")
    assert any("-test." in name for name in content(out))


@pytest.mark.parametrize(
    ("listed", "size"), [(1, 32), (1000, 32), (1024, 32), (1025, 33), (6400, 200), (67013, 256)]
)
def test_a_small_set_is_written_in_small_files(listed, size, monkeypatch):
    monkeypatch.setattr(records, "LEAST_SHARD_VIDEOS", 32)
    assert records.videos_of_a_shard(listed) == size


PROGRAM = """
import resource, sys
from pathlib import Path
from molo_jax.data.store import records, tfds_builder
from molo_jax.data.store.beam import Beam
from molo_jax.errors import MoloError
from preparing import in_this_process, make_plan
from molo_jax.data.store.preparation import prepare
from molo_jax.data.store.processes import Lost

records.LEAST_SHARD_VIDEOS = 6
tfds_builder.in_order = in_this_process
limit = {limit}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
print("begin", flush=True)
try:
    prepare(make_plan(Path({tree!r})), {out!r})
except MoloError as error:
    print(error)
    sys.exit(1)
"""


def start(tree: Path, out: Path, limit: int = 0) -> subprocess.Popen:
    code = PROGRAM.format(tree=str(tree), out=str(out), limit=limit)
    paths = os.pathsep.join(str(folder) for folder in Path(__file__).parents[2:4])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_where_a_file_cannot_be_written_nothing_half_written_stays(video_tree, tmp_path, expected):
    sizes = [len(expected[name]) for name in sorted(expected) if not name.endswith("json")]
    process = start(video_tree, tmp_path, limit=min(sizes) // 2)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "-00000-of-00005 cannot be written: " in printed
    assert "File too large" in printed
    assert "the same command goes on from there" in printed
    assert not list(tmp_path.glob("**/*array_record*"))
    assert start(video_tree, tmp_path).wait(60) == 0
    assert content(tmp_path) == expected


def test_a_kill_at_any_moment_leaves_what_the_next_start_completes(video_tree, tmp_path, expected):
    for round_, seconds in enumerate((0.05, 0.15, 0.3)):
        out = tmp_path / str(round_)
        process = start(video_tree, out)
        assert process.stdout.readline() == "begin\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert start(video_tree, out).wait(60) == 0
        assert content(out) == expected
        folder = prepared_folder(out, "folder").parent
        assert sorted(path.name for path in folder.iterdir()) == ["1.0.0"]


def test_the_manifests_say_how_many_records_there_are(video_tree, tmp_path, monkeypatch):
    prepare_tree(video_tree, tmp_path, monkeypatch)
    paths = sorted(prepared_folder(tmp_path, "folder").glob("*array_record*of-00005"))
    manifests = [Manifest.read(manifest_path(path)) for path in paths]
    assert [manifest.records for manifest in manifests] == [6, 6, 6, 6, 1]
    assert [manifest.bytes for manifest in manifests] == [path.stat().st_size for path in paths]
    assert {video.class_id for video in manifests[1].listed} == {2, 3}
