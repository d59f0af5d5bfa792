"""The plots of the report: what is in them, and what they say to those who do not see them."""

import base64

from made_results import metrics_lines

from molo_jax.reporting.plots import curves, plot_of, ways_and_shots
from molo_jax.reporting.work_folder import Result


def result(way, shot, accuracy, ci95_videos=0.03):
    return Result("f", "trained", way, shot, 100, accuracy, 0.01, ci95_videos)


def decoded(plot):
    head, _, content = plot.address.partition(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(content).decode()


def test_the_curves_are_pictures_of_the_same_bytes_each_time():
    plots = curves(metrics_lines(), {"match": "distance"}, 0.2)
    assert [plot.text.split()[1] for plot in plots] == ["loss", "accuracy"]
    assert decoded(plots[0]).lstrip().startswith("<?xml")
    again = curves(metrics_lines(), {"match": "distance"}, 0.2)
    assert [plot.address for plot in again] == [plot.address for plot in plots]
    assert (plots[0].width, plots[0].height) == (730, 326)


def test_a_rising_loss_is_not_said_to_fall():
    lines = [{"step": s, "kind": "train", "loss": s / 10, "accuracy": 0.1} for s in (10, 20)]
    assert curves(lines, {}, None)[0].text == (
        "The loss is 1 at step 10 and 2 at step 20; its terms are drawn beside it."
    )


def test_without_lines_there_are_no_curves():
    assert curves([], {}, 0.2) == []
    assert curves([{"step": 1, "kind": "train", "loss": True}], {}, 0.2) == []
    assert curves([{"step": 1, "kind": "train", "loss": 10**400}], {}, 0.2) == []


def test_the_table_of_ways_and_shots_is_drawn_with_its_widest_intervals(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "molo_jax.reporting.plots.plot_of", lambda f, text: drawn.append(f) or plot_of(f, text)
    )
    results = [result(way, shot, 0.5 + shot / 20 - way / 100) for way in (5, 10) for shot in (1, 3)]
    plot = ways_and_shots(results)
    assert plot.text == (
        "Accuracy by way and shots, from 45.0 % (10-way 1-shot) to 60.0 % (5-way 3-shot), with"
        " 95 % intervals over videos. The table holds all numbers."
    )
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["5-way", "10-way"]
    (line, _, (bars,)) = axes.containers[0].lines
    assert line.get_xdata().tolist() == [1, 3]
    assert [round(y, 6) for y in line.get_ydata()] == [50, 60]
    low, high = bars.get_segments()[0][:, 1]
    assert round(high - low, 6) == 6


def test_an_interval_over_videos_that_is_missing_anywhere_is_drawn_nowhere():
    plot = ways_and_shots([result(5, 1, 0.5), result(5, 5, 0.6, None)])
    assert "intervals over episodes" in plot.text
    assert ways_and_shots([result(5, 1, 0.5)]) is None
    assert "10-way 1-shot" in ways_and_shots([result(5, 1, 0.5), result(10, 1, 0.4)]).text
