import logging
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from bank_values import SIZES, VIDEOS, check, features, split

from molo_jax.bank.filling import Requests, fill, open_bank
from molo_jax.bank.key import BankKey
from molo_jax.bank.store import FeatureBank
from molo_jax.data.clips.episodes import clip_of_draw
from molo_jax.data.clips.source import ClipSource
from molo_jax.data.video.containers import BadVideoError
from molo_jax.errors import MoloError

KEY = BankKey({"dataset": "folder", "split": "test", "method": "molo", "weights": "ab"})


class Source(ClipSource):
    """Videos of which some cannot be read."""

    def __init__(self, on_bad_video: str = "skip", broken: Sequence[tuple[int, int]] = ()):
        super().__init__(split(), on_bad_video)
        self.broken, self.read = set(broken), []

    def path(self, class_position: int, video_position: int) -> str:
        return self.video(class_position, video_position).name

    def check_use(self, **settings) -> None:
        pass

    def _identity(self):
        return []

    def _read(self, video, choose, resize, out):
        self.read.append(video)
        if video in self.broken:
            raise BadVideoError(self.path(*video), "no video stream")
        return np.zeros((4, 2, 2, 3), np.uint8)


def clip_of(*place: int):
    return clip_of_draw(0, "test", 4, *place)


def embed_with(source: Source, bank: FeatureBank, batch: int = 2):
    """Embeds as an evaluation does: batch by batch, without what is bad."""

    def embed(requests):
        for start in range(0, len(requests), batch):
            positions = []
            for position in range(start, min(start + batch, len(requests))):
                request = requests[position]
                if source.is_bad(*request.video):
                    continue
                try:
                    source.read_clip(request, sampling="segments", resize=2)
                except BadVideoError:
                    if source.on_bad_video == "fail":
                        raise
                    continue
                positions.append(position)
            places = [requests[position] for position in positions]
            rows = [bank.rows(*request.video, _draw(request)) for request in places]
            yield np.array(positions, int), features(np.array(rows, int))

    return embed


def _draw(request) -> int:
    found = [k for k in range(9) if (clip_of(*request.video, k).draws == request.draws).all()]
    return found[0]


@pytest.fixture
def bank(tmp_path):
    return open_bank(tmp_path, KEY, features([]), SIZES)


def test_every_clip_is_embedded_once_and_more_draws_only_add_theirs(bank, tmp_path):
    source = Source()
    assert fill(bank, source, clip_of, embed_with(source, bank), 2) == 2 * VIDEOS
    assert sorted(source.read) == sorted(2 * [(c, v) for c in range(2) for v in range(SIZES[c])])
    check(bank, 2)
    again = open_bank(tmp_path, KEY, features([]), SIZES)
    assert fill(again, source, clip_of, embed_with(source, again), 2) == 0
    assert len(source.read) == 2 * VIDEOS
    assert fill(again, source, clip_of, embed_with(source, again), 3) == VIDEOS
    check(again, 3)
    assert not len(again.missing(3))


def test_bad_videos_are_recorded_as_they_are_found_and_not_tried_again(bank, tmp_path):
    source = Source(broken=[(0, 1)])
    assert fill(bank, source, clip_of, embed_with(source, bank), 2) == 2 * (VIDEOS - 1)
    # Its second draw is not tried either.
    assert source.read.count((0, 1)) == 1
    assert bank.bad == {(0, 1): "no video stream"}
    fresh = Source(broken=[(0, 1)])
    again = open_bank(tmp_path, KEY, features([]), SIZES)
    assert fill(again, fresh, clip_of, embed_with(fresh, again), 2) == 0
    assert fresh.read == []
    # Whoever draws episodes from the source knows it too.
    assert fresh.bad_places() == {(0, 1): "no video stream"}


def test_what_was_found_before_a_failure_is_kept(bank):
    source = Source(broken=[(0, 1)])

    def stopped(requests):
        embedded = embed_with(source, bank)(requests)
        yield next(embedded)
        yield next(embedded)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(bank, source, clip_of, stopped)
    found = FeatureBank.read(bank.folder)
    assert found.bad == {(0, 1): "no video stream"}
    assert found.missing(1).tolist() == [4]
    check(found, 1)


def test_a_video_that_was_skipped_fails_where_bad_videos_are_refused(bank, tmp_path):
    source = Source(broken=[(0, 1)])
    fill(bank, source, clip_of, embed_with(source, bank))
    strict = Source("fail", broken=[(0, 1)])
    again = open_bank(tmp_path, KEY, features([]), SIZES)
    with pytest.raises(MoloError, match="a/2: no video stream"):
        fill(again, strict, clip_of, embed_with(strict, again))
    assert strict.read == [(0, 1)]
    # What can be read after all is no bad video any more.
    strict.broken.clear()
    assert fill(again, strict, clip_of, embed_with(strict, again)) == 1
    assert FeatureBank.read(again.folder).bad == {}
    check(again, 1)


def test_the_log_says_what_is_done_and_what_another_bank_is_of(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = Source()
    for step, weights in ((1000, "ab"), (1200, "cd")):
        changed = BankKey({**KEY.values, "weights": weights}, {"step": step})
        bank = open_bank(tmp_path, changed, features([]), SIZES)
        fill(bank, source, clip_of, embed_with(source, bank))
    fill(bank, source, clip_of, embed_with(source, bank))
    first, second = (BankKey({**KEY.values, "weights": w}).folder(tmp_path) for w in ("ab", "cd"))
    assert [record.getMessage() for record in caplog.records] == [
        f"5 of 5 clips are to be embedded into {first}",
        f"{first.name} has other features: weights of step 1000 -> 1200 (1 other bank takes 0 MiB"
        f" in {tmp_path}, which can be removed)",
        f"5 of 5 clips are to be embedded into {second}",
        f"the features of {second} are used (0.0 MiB)",
    ]


def test_requests_are_made_when_they_are_asked_for(bank):
    asked = []

    def counted(*place):
        asked.append(place)
        return clip_of(*place)

    requests = Requests(bank.layout, np.array([9, 3]), counted)
    assert len(requests) == 2
    assert asked == []
    assert requests[0].video == (1, 1)
    assert asked == [(1, 1, 1)]
    assert requests[1].draws.tolist() == clip_of(1, 0, 0).draws.tolist()


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from own_memory import peak_bytes
from molo_jax.bank.exporting import ExportedClips, export_npz, export_parquet
from molo_jax.bank.filling import fill, open_bank
from molo_jax.bank.key import BankKey
from molo_jax.data.clips.episodes import clip_of_draw
from molo_jax.data.lists.splits import Split, Video
folder, videos = Path(sys.argv[1]), int(sys.argv[2])
TOKENS, WIDTH = 16, 1024
split = Split.of("test", "", [Video(f"videos/{v}.mp4", v % 50, v + 1) for v in range(videos)])
class Source:
    on_bad_video = "skip"
    def note_bad(self, places): pass
    def bad_places(self): return {}
def embed(requests):
    for start in range(0, len(requests), 16):
        positions = np.arange(start, min(start + 16, len(requests)))
        assert all(requests[int(position)].draws.shape == (8,) for position in positions)
        yield positions, np.ones((len(positions), TOKENS, WIDTH), np.float32)
like = np.zeros((0, TOKENS, WIDTH), np.float32)
key = BankKey({"dataset": "folder", "split": "test"})
bank = open_bank(folder, key, like, split.class_sizes)
count = fill(bank, Source(), lambda *place: clip_of_draw(0, "test", 8, *place), embed)
clips = ExportedClips.of(bank, "folder", split, 1)
export_npz(folder / "features.npz", clips)
export_parquet(folder / "features.parquet", clips)
assert count == videos
print(bank.bytes, peak_bytes())
"""


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    """Neither of filling nor of exporting."""

    def run(videos: int) -> tuple[int, int]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / str(videos)), str(videos)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        stored, peak = map(int, done.stdout.split())
        return stored, peak

    (few, small), (many, large) = run(500), run(2500)
    assert (few, many) == (500 * 2**16, 2500 * 2**16)
    # 125 MiB more are on the disk.
    assert large - small < 40 * 2**20
