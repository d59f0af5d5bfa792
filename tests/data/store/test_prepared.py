"""Clips from prepared videos: the same frames as from the videos themselves."""

import json
import os
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from preparing import SIDE, open_prepared, prepare_tree

from molo_jax.data.clips.episodes import ClipRequest, EpisodeSampler
from molo_jax.data.pipeline import EPISODE_FIELDS, clip_batches, episode_batches
from molo_jax.data.store import records
from molo_jax.data.store.prepared import PreparedDataset
from molo_jax.data.store.records import Manifest, manifest_path, read_settings
from molo_jax.errors import MoloError, UsageError

LENGTH, FRAMES = 17, 5


def sampler_of(dataset, **changes):
    arguments = {"seed": 1, "n_way": 3, "n_shot": 1, "n_query": 2, "num_frames": FRAMES}
    return EpisodeSampler.from_split(dataset.split, **{**arguments, **changes})


def episodes(dataset, sampling="segments", stop=8, workers=2):
    batches = episode_batches(
        *(dataset, sampler_of(dataset)),
        start=0,
        stop=stop,
        batch_size=2,
        workers=workers,
        prefetch=1,
        resize=SIDE,
        sampling=sampling,
    )
    with closing(batches):
        parts = list(batches)
    return {field: np.concatenate([part[field] for part in parts]) for field in EPISODE_FIELDS}


def assert_same_episodes(prepared, direct, read_codes, most=12, mean=1.5):
    """The same videos, frames and labels; pixels up to what JPEG does to them."""
    for field in set(EPISODE_FIELDS) - {"support", "query"}:
        np.testing.assert_array_equal(prepared[field], direct[field], err_msg=field)
    for role in ("support", "query"):
        for ours, theirs in zip(prepared[role], direct[role], strict=True):
            assert [read_codes(clip) for clip in ours] == [read_codes(clip) for clip in theirs]
        error = np.abs(prepared[role].astype(int) - direct[role])
        assert error.max() <= most
        assert 0 < error.mean() <= mean


@pytest.mark.parametrize("sampling", ["segments", "window", "window_middle"])
def test_the_same_frames_are_chosen_as_from_the_videos(out, open_dataset, read_codes, sampling):
    prepared, direct = (episodes(d, sampling) for d in (open_prepared(out), open_dataset()))
    assert_same_episodes(prepared, direct, read_codes)


def test_the_frames_are_those_of_compressed_images_and_the_splits_that_are_there_are_listed(
    out, open_dataset
):
    assert open_prepared(out).pixels == "JPEG images of quality 95, 444"
    assert open_dataset().pixels == "frames of the video files"
    lists = PreparedDataset.lists(out, "folder")
    assert list(lists) == ["train"]
    assert lists["train"].videos == open_prepared(out).split.videos


def test_workers_change_nothing(out):
    one, three = (episodes(open_prepared(out), workers=workers) for workers in (1, 3))
    for field in EPISODE_FIELDS:
        np.testing.assert_array_equal(one[field], three[field], err_msg=field)


def test_only_the_frames_of_a_window_are_kept_and_they_suffice(
    video_tree, open_dataset, tmp_path, monkeypatch, read_codes
):
    prepare_tree(video_tree, tmp_path, monkeypatch, keep="window")
    dataset = open_prepared(tmp_path)
    for sampling in ("window", "window_middle"):
        prepared, direct = (episodes(d, sampling) for d in (dataset, open_dataset()))
        assert_same_episodes(prepared, direct, read_codes)
    with pytest.raises(UsageError, match=r"only those frames .* prepare again with --keep=all"):
        episodes(dataset, "segments")


def test_of_a_thinned_video_the_nearest_frames_are_shown(
    video_tree, tmp_path, monkeypatch, read_codes
):
    prepare_tree(video_tree, tmp_path, monkeypatch, max_frames=4)
    # 17 frames, the middles of four equal parts: 2, 6, 10, 14.
    clip = open_prepared(tmp_path).read_clip(
        ClipRequest(2, 1, np.array([0.0, 0.9, 0.4, 0.7, 0.99])), sampling="segments", resize=SIDE
    )
    # 17 // 5 = 3: frames 0, 5, 7, 11, 14. Two classes of 7 and 6 videos come before.
    assert read_codes(clip) == ([2, 6, 6, 10, 14], [14] * 5)


def test_only_a_video_too_long_for_a_record_is_shortened_and_named(
    video_tree, tmp_path, monkeypatch, read_codes
):
    # Videos of 17 frames, and room for 16 in a record.
    monkeypatch.setattr(records, "MOST_RECORD_BYTES", 16 * SIDE**2)
    report = prepare_tree(video_tree, tmp_path, monkeypatch)
    notes = report.to_json()["notes"]
    assert {note["note"] for note in notes} == {"17 frames, of which 16 are stored, evenly spaced"}
    clip = open_prepared(tmp_path).read_clip(
        ClipRequest(2, 1, np.array([0.0, 0.9, 0.4, 0.7, 0.99])), sampling="segments", resize=SIDE
    )
    # 17 // 5 = 3: frames 0, 5, 7, 11, 14; of the 17 frames only number 8 is left out.
    assert read_codes(clip) == ([0, 5, 7, 11, 14], [14] * 5)


def test_clips_come_from_the_videos_that_were_asked_for(out, read_codes):
    dataset = open_prepared(out)
    sampler = sampler_of(dataset, frame_draw="video")
    videos = [(3, 1), (0, 0), (2, 4)]
    (batch,) = clip_batches(
        *(dataset, [sampler.clip(*video) for video in videos]),
        batch_size=3,
        workers=2,
        prefetch=1,
        resize=SIDE,
        sampling="segments",
    )
    codes = [read_codes(clip)[1][0] for clip in batch.clips]
    assert codes == [7 + 6 + 5 + 1, 0, 7 + 6 + 4]


def test_what_was_not_prepared_is_named_with_its_reason(
    video_tree, spoiled_videos, tmp_path, monkeypatch
):
    report = prepare_tree(video_tree, tmp_path / "out", monkeypatch, videos=spoiled_videos)
    found = report.to_json()["splits"]["train"]
    numbers = {key: found[key] for key in ("listed", "found", "missing", "unreadable", "usable")}
    assert numbers == {"listed": 25, "found": 24, "missing": 1, "unreadable": 3, "usable": 21}
    with pytest.raises(MoloError, match=r"4 of the 25 videos in .* Prepare it\."):
        open_prepared(tmp_path / "out")
    dataset = open_prepared(tmp_path / "out", "skip")
    reasons = {os.path.basename(path): reason for path, reason in dataset.bad_videos().items()}
    assert reasons["11_0"] == "missing"
    assert reasons["2_1.mp4"].startswith("not a video file")
    assert reasons["2_4.mp4"].startswith("truncated")
    assert reasons["40_3.mp4"] == "the file is empty (0 bytes)"


def test_episodes_without_the_bad_videos_are_those_of_the_videos_themselves(
    video_tree, spoiled_videos, tmp_path, monkeypatch, open_dataset, read_codes
):
    prepare_tree(video_tree, tmp_path / "out", monkeypatch, videos=spoiled_videos)
    prepared = episodes(open_prepared(tmp_path / "out", "skip"), stop=16)
    direct = episodes(open_dataset(spoiled_videos, on_bad_video="skip"), stop=16)
    assert_same_episodes(prepared, direct, read_codes)


def test_frames_of_another_size_are_refused_with_the_remedy(out):
    with pytest.raises(UsageError, match=r"resize is 32, .* with 48; .*again with --resize=32"):
        open_prepared(out).check_use(sampling="segments", num_frames=8, resize=32)


def test_what_is_not_there_is_named_with_the_remedy(out, tmp_path):
    with pytest.raises(MoloError, match=rf"no prepared videos of folder in {tmp_path}\. Prepare"):
        open_prepared(tmp_path)


def test_a_record_file_that_was_cut_or_is_gone_is_noticed_at_the_start(copy):
    out, records = copy
    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MoloError, match=rf"{records.name} has \d+ bytes, {len(whole)} were writt"):
        open_prepared(out)
    records.rename(records.with_name(records.name.replace("of-00001", "of-00002")))
    manifest_path(records).rename(
        manifest_path(records.with_name(records.name.replace("of-00001", "of-00002")))
    )
    with pytest.raises(MoloError, match="has 1 of the 2 record files of train"):
        open_prepared(out)


def test_accounts_that_belong_to_other_records_are_noticed(copy):
    out, records = copy
    manifest = Manifest.read(manifest_path(records))
    other = Manifest(
        *(manifest.settings, manifest.split, manifest.listed[::-1], manifest.outcomes[::-1]),
        manifest.bytes,
    )
    other.write(manifest_path(records))
    request = sampler_of(open_prepared(out), frame_draw="video").clip(0, 0)
    with pytest.raises(MoloError, match="manifests do not belong to the record files"):
        open_prepared(out).read_clip(request, sampling="segments", resize=SIDE)


def test_a_damaged_account_is_named(copy):
    out, records = copy
    manifest_path(records).write_text('{"split": 3}')
    with pytest.raises(MoloError, match=r"array_record-00000-of-00001\.json is damaged"):
        open_prepared(out)


@pytest.mark.parametrize(
    "content", ["[" * 200_000, "3", '{"videos": [3]}', "[" + "9" * 5000 + "]", b"\xff\xfe"]
)
def test_an_account_with_any_content_is_named_in_one_line(content, copy):
    out, records = copy
    content = content.encode() if isinstance(content, str) else content
    manifest_path(records).write_bytes(content)
    with pytest.raises(MoloError, match=r"00001\.json is damaged \(.*\); prepare the data again"):
        open_prepared(out)
    settings = records.parent / "preparation.json"
    settings.write_bytes(content)
    with pytest.raises(MoloError, match=r"preparation\.json is damaged"):
        read_settings(settings)


@pytest.mark.parametrize("value", ["8", 8.0, True, None, [8]])
def test_a_value_of_another_type_in_an_account_is_named(value, copy):
    out, records = copy
    path = manifest_path(records)
    content = json.loads(path.read_text())
    content["videos"][0]["class_id"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(MoloError, match=r"is damaged \(class_id is .*, expected int\)"):
        open_prepared(out)


def test_a_class_number_that_the_record_does_not_have_is_refused(copy):
    out, records = copy
    path = manifest_path(records)
    content = json.loads(path.read_text())
    first = content["videos"][0]
    second = next(v for v in content["videos"] if v["class_id"] != first["class_id"])
    first["class_id"], second["class_id"] = second["class_id"], first["class_id"]
    path.write_text(json.dumps(content))
    dataset = open_prepared(out)
    for video, other in ((first, second), (second, first)):
        place = next(
            (c, v)
            for c, videos in enumerate(dataset.split.videos)
            for v, listed in enumerate(videos)
            if listed.name == video["name"]
        )
        request = ClipRequest(*place, np.zeros(8))
        found, wanted = (
            re.escape(f"{video['name']}, class {one['class_id']}") for one in (other, video)
        )
        with pytest.raises(MoloError, match=f"is of {found}.*, and its manifest says {wanted}"):
            dataset.read_clip(request, sampling="segments", resize=SIDE)


def test_the_identity_is_that_of_the_prepared_videos_wherever_they_lie(copy, out):
    folder, record = copy
    same = open_prepared(out).identity()
    assert open_prepared(folder).identity() == same
    path = manifest_path(record)
    account = json.loads(path.read_text())
    for name, value in {"mtime_ns": 1, "size": 1, "length": LENGTH + 1}.items():
        other = json.loads(path.read_text())
        other["videos"][1][name] = value
        path.write_text(json.dumps(other))
        assert open_prepared(folder).identity() != same, name
        path.write_text(json.dumps(account))
    assert open_prepared(folder).identity() == same
    settings = record.with_name(records.SETTINGS_FILE)
    changed = json.loads(settings.read_text()) | {"quality": 50}
    settings.write_text(json.dumps(changed))
    assert open_prepared(folder).identity() != same


def test_memory_stays_bounded_over_many_clips(out):
    dataset = open_prepared(out)
    sampler = sampler_of(dataset, frame_draw="video")
    videos = [(c, v) for c, size in enumerate(dataset.class_sizes) for v in range(size)]
    requests = [sampler.clip(*videos[i % len(videos)]) for i in range(6000)]
    batches = clip_batches(
        *(dataset, requests),
        batch_size=50,
        workers=2,
        prefetch=1,
        resize=SIDE,
        sampling="segments",
    )
    used = []
    with closing(batches):
        for _ in batches:
            used.append(resident_megabytes())
    # 120 batches of 1.7 MB; the first 20 fill what is kept for reuse.
    assert max(used[20:]) - used[20] < 15


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
