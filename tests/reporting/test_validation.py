"""What TensorBoard gets of a validation, from made outcomes."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from event_files import events
from PIL import Image

from molo_jax.analysis.outcome import Outcome
from molo_jax.data.clips.episodes import EpisodeSampler
from molo_jax.data.lists.splits import Split, Video
from molo_jax.engine.metrics import MetricLog, read_metrics
from molo_jax.reporting import validation
from molo_jax.reporting.validation import ValidationBoard, class_accuracies, draw_classes


class Clips:
    """Clips of one color, which tells class and video; counts how often each is read."""

    def __init__(self, names, sizes=6):
        videos = [Video(f"{c}/{v}", c, 1) for c in range(len(names)) for v in range(sizes)]
        split = Split.of("val", "val.txt", videos)
        self.split = Split(split.name, split.path, split.classes, split.videos, tuple(names))
        self.read = []

    def read_clip(self, request, *, sampling, resize):
        self.read.append((request.class_position, request.video_position, sampling, resize))
        level = 20 * request.class_position + request.video_position
        return np.full((4, 9, 12, 3), level, np.uint8)


def data(clips, n_way=3):
    sampler = EpisodeSampler.from_split(
        clips.split, seed=1, n_way=n_way, n_shot=1, n_query=2, num_frames=4
    )
    reading = {"sampling": "segments", "resize": 9, "workers": 1, "prefetch": 1}
    return SimpleNamespace(dataset=clips, samplers={1: sampler}, reading=reading)


def outcome(classes, predicted, margins):
    classes = np.array(classes)
    videos = np.broadcast_to(np.array([4, 2, 5]), (*classes.shape, 3))
    return Outcome(classes, videos, 1, np.array(predicted), np.array(margins, np.float32))


# Three episodes of two classes of three, two queries of each.
MADE = outcome(
    [[2, 0], [0, 1], [1, 2]],
    [[[0, 1], [1, 1]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]],
    [[[0.5, -1.5], [2, 3]], [[1, 1], [-0.25, 0.5]], [[1, 2], [-1, -2]]],
)


def tags(workdir):
    return {v.tag: (e.step, v) for e in events(workdir) for v in e.summary.value}


def test_the_accuracy_of_a_class_is_over_all_its_queries():
    assert class_accuracies(MADE) == {0: 1.0, 1: 0.75, 2: 0.25}


def test_a_validation_shows_an_episode_every_class_and_the_margins(tmp_path):
    clips = Clips(["<b>up</b>", "down $x_$", ""])
    with MetricLog(tmp_path, 0) as log:
        ValidationBoard(log, data(clips)).show(40, MADE)
    found = tags(tmp_path)
    assert {tag: step for tag, (step, _) in found.items()} == dict.fromkeys(
        [
            *("val_class/<b>up</b>", "val_class/down $x_$", "val_class/2"),
            *("val/episode", "val/classes", "val/margin", "val/accuracy_of_classes"),
        ],
        40,
    )
    assert found["val_class/down $x_$"][1].simple_value == 0.75
    assert found["val_class/2"][1].simple_value == 0.25
    margin = found["val/margin"][1].histo
    assert (margin.num, margin.min, margin.max) == (12, -2.0, 3.0)
    assert margin.sum == pytest.approx(6.25)
    # Zero is the border of two bins: four of twelve margins are below it.
    below = [n for n, end in zip(margin.bucket, margin.bucket_limit, strict=True) if end <= 1e-12]
    assert sum(below) == 4
    assert sum(margin.bucket) == 12
    # `metrics.jsonl` keeps its lines.
    assert read_metrics(tmp_path) == []


def test_the_same_episode_is_shown_each_time_and_its_clips_are_read_once(tmp_path):
    clips = Clips(["a", "b", "c"])
    with MetricLog(tmp_path, 0) as log:
        board = ValidationBoard(log, data(clips))
        board.show(1, MADE)
        board.show(2, MADE)
    # The support clip and the first query of the classes of the first episode.
    assert clips.read == [(c, v, "segments", 9) for c in (2, 0) for v in (4, 2)]
    episodes = [
        (event.step, value.image)
        for event in events(tmp_path)
        for value in event.summary.value
        if value.tag == "val/episode"
    ]
    assert [step for step, _ in episodes] == [1, 2]
    assert episodes[0][1] == episodes[1][1]
    image = episodes[0][1]
    picture = Image.open(io.BytesIO(image.encoded_image_string))
    assert picture.format == "JPEG"
    assert picture.size == (image.width, image.height)
    assert len(image.encoded_image_string) < 100_000


def test_the_rows_say_what_was_predicted(tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(validation, "draw_episode", lambda figure, drawn, title: rows.extend(drawn))
    with MetricLog(tmp_path, 0) as log:
        ValidationBoard(log, data(Clips(["a", "b", "c"]))).show(1, MADE)
    assert [(row.name, row.predicted) for row in rows] == [("c", "c"), ("a", "a")]
    assert [int(row.support[0, 0, 0, 0]) for row in rows] == [44, 4]
    assert [int(row.query[0, 0, 0, 0]) for row in rows] == [42, 2]


def test_without_an_outcome_nothing_is_shown(tmp_path):
    with MetricLog(tmp_path, 0) as log:
        ValidationBoard(log, None).show(1, None)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_drawn_is_one_warning_and_ends_nothing(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(validation, "draw_episode", fail)
    with MetricLog(tmp_path, 0) as log:
        board = ValidationBoard(log, data(Clips(["a", "b", "c"])))
        board.show(1, MADE)
        board.show(2, MADE)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [
        "the pictures of the validation at step 1 could not be made, and none are made from here"
        " on: RuntimeError: no font"
    ]


def test_of_many_classes_the_best_and_the_worst_have_a_bar_and_none_a_curve(tmp_path):
    count = 40
    figure = draw_classes({f"class {i:02}": i / count for i in range(count)})
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"class {i:02}" for i in [*range(39, 23, -1), *range(15, -1, -1)]]
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths[:2], [97.5, 95])
    assert "the 16 best and the 16 worst" in axes.get_title(loc="left")
    many = outcome(np.arange(count).reshape(20, 2), np.zeros((20, 2, 2), int), np.ones((20, 2, 2)))
    with MetricLog(tmp_path, 0) as log:
        ValidationBoard(log, data(Clips([f"c{i}" for i in range(count)]))).show(1, many)
    assert {tag.split("/")[0] for tag in tags(tmp_path)} == {"val"}


def test_a_long_name_is_cut_in_the_picture():
    figure = draw_classes({"x" * 200: 0.5, "short": 1.0})
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["short", "x" * 40 + "…"]
