import json
import math

import numpy as np
import pytest
from event_files import events
from tensorboardX.event_file_writer import EventsWriter

from molo_jax.engine import metrics
from molo_jax.engine.metrics import MetricLog, check_finite, mean_metrics, read_metrics
from molo_jax.errors import MoloError


def write(workdir, first_step, steps, kind="train", value=0.5):
    with MetricLog(workdir, first_step) as log:
        for step in steps:
            log.write(step, kind, {"loss": value * step})


def test_lines_carry_step_kind_and_values_in_full_precision(tmp_path):
    with MetricLog(tmp_path, 0) as log:
        log.write(3, "train", {"loss": 1 / 3, "accuracy": 0.25})
        log.write(3, "val", {"accuracy": 0.5})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [
        {"step": 3, "kind": "train", "loss": 1 / 3, "accuracy": 0.25},
        {"step": 3, "kind": "val", "accuracy": 0.5},
    ]


def test_a_resumed_run_drops_later_lines_so_that_each_step_occurs_once(tmp_path):
    write(tmp_path, 0, [2, 4, 6, 8])
    write(tmp_path, 5, [6, 8, 10])
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 6, 8, 10]


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    write(tmp_path, 0, [2, 4])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "ki')
    write(tmp_path, 4, [6])
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 6]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"step": 4, "kind": "tr\xff"}', "is not in UTF-8"),
        (b"[4, 5]", "is '[4, 5]', no object"),
        (b'"' + b"x" * 500 + b'"', f"is '{'x' * 120}'… (500 characters), no object"),
        (b'{"kind": "train"}', "is \"{'kind': 'train'}\", without a whole number as step"),
        (b'{"step": "4", "kind": "train"}', "without a whole number as step and a text as kind"),
        (b'{"step": 4}', "without a whole number as step and a text as kind"),
    ],
)
def test_a_line_that_no_training_wrote_is_named_with_its_file(tmp_path, line, problem):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2, "kind": "train"}\n' + line + b"\n")
    for read in (read_metrics, lambda folder: MetricLog(folder, 2)):
        with pytest.raises(MoloError) as error:
            read(tmp_path)
        assert str(error.value).startswith(f"{path}, line 2 ")
        assert problem in str(error.value)


def test_tensorboard_gets_the_same_numbers_under_kind_and_name(tmp_path):
    write(tmp_path, 0, [2, 4], kind="val")
    found = [
        (event.step, value.tag, value.simple_value)
        for event in events(tmp_path)
        for value in event.summary.value
    ]
    assert found == [(2, "val/loss", 1.0), (4, "val/loss", 2.0)]


def test_nothing_is_written_before_the_first_line(tmp_path):
    with MetricLog(tmp_path, 0):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "method", "file"),
    [
        (EventsWriter, "write_event", "tensorboard"),
        (EventsWriter, "flush", "tensorboard"),
        (metrics.json, "dumps", "metrics.jsonl"),
    ],
)
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch, place, method, file):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def write_until_full():
        with MetricLog(tmp_path, 0) as log:
            log.write(1, "train", {"loss": 1.0})
            monkeypatch.setattr(place, method, full)
            log.write(2, "train", {"loss": 1.0})

    message = f"{tmp_path}/{file} cannot be written: No space left on device; make room, then run"
    with pytest.raises(MoloError, match=message):
        write_until_full()


def test_a_resumed_run_tells_tensorboard_from_which_step_it_writes_anew(tmp_path):
    write(tmp_path, 5, [6])
    version, start, value = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (6, start.session_log.START)
    assert (value.step, value.summary.value[0].tag) == (6, "train/loss")


def test_mean_metrics_averages_each_name_over_the_steps():
    steps = [{"loss": 1.0, "accuracy": 0.0}, {"loss": 4.0, "accuracy": 1.0}]
    assert mean_metrics(steps) == {"loss": 2.5, "accuracy": 0.5}


def test_a_finite_step_passes():
    check_finite(1, {"loss": 1.0, "match": -3.0})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_term_that_is_not_finite_is_named_rather_than_the_sum(value):
    values = {"grad_norm": math.nan, "loss": math.nan, "match": 1.0, "reconstruction": value}
    message = f"step 17: the loss term 'reconstruction' is {value}"
    with pytest.raises(MoloError, match=message):
        check_finite(17, values)


def test_a_gradient_that_is_not_finite_is_named_when_all_terms_are_finite():
    with pytest.raises(MoloError, match="step 3: the gradient norm is inf"):
        check_finite(3, {"match": 1.0, "loss": 1.0, "grad_norm": math.inf})


def test_numbers_are_formatted_to_be_read():
    values = {"loss": 12.34567, "learning_rate": 5e-4, "zero": 0.0}
    assert metrics.format_metrics(values) == "loss 12.35  learning_rate 5.0e-04  zero 0"


def test_pictures_histograms_and_numbers_go_to_tensorboard_alone_under_their_tags(tmp_path):
    picture = metrics.Picture(b"bytes of a file", 30, 20)
    with MetricLog(tmp_path, 0) as log:
        log.write(4, "val", {"accuracy": 0.5})
        log.show(
            4,
            numbers={"classes/<b> $x": 0.25},
            pictures={"val/episode": picture},
            histograms={"val/margin": np.array([-1.0, -0.01, 0.01, 2.0]), "zero": np.zeros(3)},
        )
    _, _, accuracy, number, image, margin, zero = events(tmp_path)
    assert accuracy.summary.value[0].tag == "val/accuracy"
    assert (number.step, number.summary.value[0].tag) == (4, "classes/<b> $x")
    assert number.summary.value[0].simple_value == 0.25
    shown = image.summary.value[0]
    assert (shown.tag, shown.image.width, shown.image.height) == ("val/episode", 30, 20)
    assert shown.image.encoded_image_string == b"bytes of a file"
    found = margin.summary.value[0].histo
    assert (found.num, found.min, found.max, found.sum) == (4, -1, 2, 1.0)
    ends = zip(found.bucket, found.bucket_limit, strict=True)
    assert sum(count for count, end in ends if end < 1e-9) == 2
    assert zero.summary.value[0].histo.num == 3
    assert len(read_metrics(tmp_path)) == 1


def test_of_several_processes_only_the_first_writes(tmp_path, monkeypatch):
    write(tmp_path, 0, [1, 2])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(metrics.hosts, "is_first", lambda: False)
    # Process 0 would forget the second line.
    with MetricLog(tmp_path, 1) as log:
        log.write(2, "train", {"loss": 7.0})
        log.show(2, numbers={"a/b": 1.0})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
