import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from molo_jax import build
from molo_jax import figure as drawing
from molo_jax.config import base_config
from molo_jax.errors import MoloError
from molo_jax.methods.settings import MoLoSettings
from molo_jax.reporting import curves, episode_picture


def metrics():
    lines = []
    for step in (10, 20, 30):
        terms = {term: 1.0 + place for place, term in enumerate(MoLoSettings.losses)}
        lines.append({"step": step, "kind": "train", "loss": 50 / step, "accuracy": 0.3} | terms)
        lines.append({"step": step, "kind": "val", "accuracy": step / 100, "ci95": 0.05})
    return lines


def row(name, predicted, level=0):
    clip = np.full((3, 7, 5, 3), level, np.uint8)
    return drawing.ExampleRow(name=name, support=clip, query=clip, predicted=predicted)


@pytest.fixture
def figure():
    rows = [row("left", "left"), row("right", "left", level=200), row("up", "up")]
    drawn = drawing.draw_figure(
        metrics(),
        rows,
        title="a run",
        terms=MoLoSettings.losses,
        episode_title="an episode",
        chance=0.2,
    )
    drawn.draw_without_rendering()
    return drawn


def lines_of(axes):
    return {line.get_label(): np.asarray(line.get_data()) for line in axes.get_lines()}


def test_the_loss_and_every_term_are_drawn_over_the_steps(figure):
    drawn = lines_of(figure.axes[0])
    assert len(drawn) == 1 + len(MoLoSettings.losses)
    np.testing.assert_allclose(
        drawn["loss: weighted sum of all terms"], [[10, 20, 30], [5, 2.5, 50 / 30]]
    )
    np.testing.assert_allclose(drawn["support→query contrast (s2q)"], [[10, 20, 30], [3, 3, 3]])


def test_the_legend_writes_every_term_of_the_loss_out(figure):
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown == [
        "loss: weighted sum of all terms",
        "match: distance of query and support",
        "auxiliary classifier",
        "support→query contrast (s2q)",
        "query→support contrast (q2s)",
        "support→query contrast, motion (s2q_motion)",
        "query→support contrast, motion (q2s_motion)",
        "reconstruction of frame differences",
    ]


def drawn_pixels(count):
    """Draws a training of so many lines; returns how many pixels differ from white in its panel."""
    lines = [metrics()[0] | {"step": 10 * (place + 1)} for place in range(count)]
    figure = drawing.Figure(figsize=(8, 6))
    axes = figure.subplots()
    curves.draw_losses(axes, lines, MoLoSettings.losses)
    axes.get_legend().remove()
    for artist in (axes.title, axes.xaxis, axes.yaxis, axes.patch, *axes.spines.values()):
        artist.set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return int((np.asarray(canvas.buffer_rgba())[..., :3] < 200).any(axis=-1).sum())


def test_the_only_point_of_a_short_training_can_be_seen():
    assert drawn_pixels(1) > 100


def test_points_are_marked_up_to_twenty_of_them():
    assert curves._marker(range(20))["marker"] == "o"
    assert curves._marker(range(21)) == {}


def test_a_picture_that_cannot_be_written_is_named_and_leaves_nothing(
    monkeypatch, motion_data, tmp_path
):
    def full(self, path, **_):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drawing, "example_episode", lambda *_: [row("up", "up")])
    monkeypatch.setattr(drawing.Figure, "savefig", full)
    config = base_config()
    config.data.source, config.eval.n_way, config.eval.shots = "videos", 3, (1,)
    config.data.root, config.data.split_dir = f"{motion_data}/videos", f"{motion_data}/splits"
    message = f"{tmp_path}/summary.png cannot be written: No space left on device; make room"
    with pytest.raises(MoloError, match=message):
        drawing.write_figure(build.evaluation(config), tmp_path, train_way=5)
    assert list(tmp_path.iterdir()) == []


def test_validation_accuracy_and_chance_are_drawn_in_percent(figure):
    drawn = lines_of(figure.axes[1])
    np.testing.assert_allclose(drawn["val, 95 %"], [[10, 20, 30], [10, 20, 30]])
    np.testing.assert_allclose(drawn["chance"][1], 20)


def test_each_query_carries_its_prediction_in_the_color_of_right_or_wrong(figure):
    titles = {
        axes.get_title(loc="left"): to_hex(axes.spines["left"].get_edgecolor())
        for axes in figure.axes[2:]
    }
    assert titles["query, predicted: left  ✓"] == "#1a7f37"
    assert titles["query, predicted: left  ✗  truth: right"] == "#c62828"
    assert titles["query, predicted: up  ✓"] == "#1a7f37"
    assert {"support: left", "support: right", "support: up"} <= set(titles)
    suptitles = [sub.get_suptitle() for sub in figure.subfigs]
    assert "an episode: 2 of 3 queries right" in suptitles


def test_the_frames_of_a_clip_stand_side_by_side_in_order(figure):
    clip = np.stack([np.full((7, 5, 3), level, np.uint8) for level in (10, 20, 30)])
    axes = figure.axes[2]
    axes.images[0].remove()
    episode_picture._draw_clip(axes, clip, "red")
    strip = np.asarray(axes.images[0].get_array())
    assert strip.shape == (7, 3 * 5 + 2, 3)
    np.testing.assert_array_equal(strip[0, [0, 4, 6, 10, 12, 16], 0], [10, 10, 20, 20, 30, 30])


def test_a_class_is_called_by_the_folder_of_its_videos_or_by_its_number(motion_data, tmp_path):
    config = base_config()
    config.data.source = "videos"
    config.data.root = str(motion_data / "videos")
    config.data.split_dir = str(motion_data / "splits")
    assert drawing.class_name(build.open_split(config, "val"), 1) == "val_motion5"
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "78.mp4").touch()
    (tmp_path / "val_few_shot.txt").write_text("val17/78\n")
    config.data.source = "videos"
    config.data.root, config.data.split_dir = str(videos), str(tmp_path)
    assert drawing.class_name(build.open_split(config, "val"), 0) == "class 17"
