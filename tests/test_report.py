"""The command that makes a report, and what it says where network or videos are absent."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from html_page import HtmlPage
from made_results import write_work_folder

from molo_jax import report_run
from molo_jax.config import base_config
from molo_jax.console import without_failing
from molo_jax.errors import MoloError
from molo_jax.reporting.work_folder import Result

NAMES = [f"class {i}" for i in range(8)]


def run(*arguments):
    program = [sys.executable, "-m", "molo_jax.report", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_command_writes_the_page_and_names_what_is_missing(tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "page.html"
    write_work_folder(workdir, NAMES)
    found = run(workdir, f"--out={out}", f"--prepared={tmp_path}/absent", "--map_clips=10")
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)\n"
    page = HtmlPage(out.read_text(encoding="utf-8"))
    assert page.problems() == []
    missing = page.text().rpartition("What is missing")[2]
    assert "The videos could not be opened, so no clips are shown:" in missing
    assert f"{tmp_path}/absent" in missing
    assert "The videos could not be opened" in found.stderr
    # The hardest queries are there, without frames.
    assert "Hardest queries" in page.text()
    assert not page.all("image")


def test_by_default_the_page_is_in_the_work_folder_and_pictures_can_be_left_out(tmp_path):
    write_work_folder(tmp_path, NAMES)
    found = run(tmp_path, "--nopictures")
    assert found.returncode == 0, found.stderr
    text = HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8")).text()
    assert "are left out by --nopictures" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "WORKDIR is required"),
        (("{}/absent",), 1, "absent is no folder"),
        (("{}",), 1, "holds neither metrics.jsonl nor results"),
        (("{}", "--out={}"), 2, "expected a file in a folder that exists"),
        (("{}", "--out={}/no/page.html"), 2, "expected a file in a folder that exists"),
        (("{}", "--map_clips=-1"), 2, "--map_clips=-1: expected 0 or more"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, code, message):
    found = run(*(each.format(tmp_path) for each in arguments))
    assert found.returncode == code
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_stored_configuration_is_taken_over_as_far_as_there_are_such_keys():
    stored = base_config("hyrsm").to_dict()
    stored["eval"] |= {"shots": [1, 5], "gone": 3}
    del stored["eval"]["precision"]
    stored["data"]["crop"] = 96
    config = base_config("hyrsm")
    report_run._update(config, stored)
    assert config.data.crop == 96
    assert config.eval.shots == (1, 5)
    assert "gone" not in config.eval
    assert config.eval.precision == base_config().eval.precision


def test_an_unknown_method_is_named():
    shown = result({"config": {"method": {"name": "other"}}})
    with pytest.raises(MoloError, match=r"names no known method \('other'\)"):
        report_run._evaluation(shown, "")


@pytest.mark.parametrize("tested", ["", "other"])
def test_the_folder_of_the_prepared_videos_is_that_of_what_was_evaluated(monkeypatch, tested):
    made = []
    monkeypatch.setattr(report_run.build, "evaluation", made.append)
    stored = base_config("otam").to_dict()
    stored["eval"] |= {"dataset": tested, "ways": [5, 6], "shots": [1, 5]}
    report_run._evaluation(result({"config": stored}), "there")
    (config,) = made
    assert (config.data.source, config.method.name) == ("prepared", "otam")
    places = {"data": config.data.prepared, "eval": config.eval.prepared}
    assert places == (stored_places(stored) | {"eval" if tested else "data": "there"})
    # The episodes of the shown result alone.
    assert (config.eval.ways, config.eval.n_way, config.eval.shots) == ((), 5, (1,))


def stored_places(stored):
    return {"data": stored["data"]["prepared"], "eval": stored["eval"]["prepared"]}


def result(record):
    return Result("f.json", "trained", 5, 1, 100, 0.5, 0.1, record=record)


@pytest.mark.parametrize(
    ("checkpoint", "init_from", "source"),
    [
        ("/elsewhere/run/best/40", "", ""),
        # Trained here, from other weights.
        ("/elsewhere/run/best/40", "weights.pyth", ""),
        # Those weights themselves were evaluated.
        ("weights.pyth", "weights.pyth", "weights.pyth"),
        ("/elsewhere/other/best/40", "/elsewhere/other", "/elsewhere/other"),
    ],
)
def test_the_weights_are_those_that_were_evaluated(tmp_path, checkpoint, init_from, source):
    shown = result({"checkpoint": checkpoint, "config": {"init_from": init_from}})
    assert report_run._source(shown, tmp_path / "run") == source


def test_what_fails_unforeseen_is_said_on_the_page(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("of a library")

    write_work_folder(tmp_path, NAMES)
    data = SimpleNamespace(samplers={})
    monkeypatch.setattr(report_run, "_evaluation", lambda *_: SimpleNamespace(data=data))
    monkeypatch.setattr(report_run, "hard_clips", lambda *_: ())
    monkeypatch.setattr(report_run, "illustrate", fail)
    report_run.write_report(tmp_path, tmp_path / "report.html")
    text = HtmlPage((tmp_path / "report.html").read_text(encoding="utf-8")).text()
    assert "could not be made: ZeroDivisionError: of a library" in text


def test_a_report_that_fails_does_not_fail_a_finished_training(caplog):
    def fail():
        raise json.JSONDecodeError("bad", "", 0)

    without_failing("report.html", fail)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "report.html could not be written, which changes no result: JSONDecodeError: bad"
    )
