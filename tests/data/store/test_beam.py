"""Which Beam runner does the work with which options, and what is said where it cannot."""

import sys

import pytest

from molo_jax.data.store import beam
from molo_jax.data.store.beam import Beam
from molo_jax.errors import MoloError, UsageError

PLACE = "dask_client_address=tcp://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


def test_an_unknown_runner_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"--beam_runner=Dusk: Unexpected pipeline runner: Dusk\."):
        Beam("Dusk")
    with pytest.raises(UsageError, match=r"--beam_runner=no_such\.Runner: No module named"):
        Beam("no_such.Runner")


@pytest.mark.parametrize("name", ["DaskRunner", "dask", beam.dask_cluster.RUNNER])
def test_each_record_file_is_a_task_of_dask_unless_asked_otherwise(name):
    assert Beam(name, [PLACE])._options == [f"--{PLACE}", "--dask_partition_size=1"]
    split = "dask_npartitions=7"
    assert Beam(name, [f"--{PLACE}", split])._options == [f"--{PLACE}", f"--{split}"]


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("DaskRunner", [], "DaskRunner needs the address of a Dask scheduler: --beam_pipeline"),
        ("DaskRunner", ["dask_client_adress=x"], "no option dask_client_adress; did you mean dask"),
        ("DaskRunner", [PLACE, "flink=1"], "DaskRunner has no option flink; it has dask_client_"),
        ("DaskRunner", [PLACE, "dask_npartitions=x"], "dask_npartitions: invalid int value: 'x'"),
        ("DaskRunner", [PLACE, "dask_connection_timeout=x"], "must be whole seconds"),
        ("DaskRunner", ["dask_scheduler_file=/none"], "dask_scheduler_file=/none does not exist"),
        ("DirectRunner", ["direct_num_workers=x"], "direct_num_workers: invalid int value: 'x'"),
        ("DataflowRunner", [], "Missing required option: project"),
    ],
)
def test_a_wrong_option_is_one_line(runner, options, message, capfd):
    with pytest.raises(UsageError, match=message) as raised:
        Beam(runner, options)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_dasks_own_configuration_may_name_the_scheduler():
    from dask import config

    with config.set({"scheduler-address": "tcp://127.0.0.1:9"}):
        assert Beam("DaskRunner")._options == ["--dask_partition_size=1"]


@pytest.mark.parametrize(
    ("module", "runner", "extra"),
    [("apache_beam", "DirectRunner", "beam"), ("distributed", "DaskRunner", "dask")],
)
def test_a_missing_extra_is_named(monkeypatch, module, runner, extra):
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"^--beam_runner={runner} needs the extra {extra} .*pip install .*\[{extra}\]'$"
    with pytest.raises(MoloError, match=message):
        Beam(runner, [PLACE] if runner == "DaskRunner" else [])


def test_of_a_text_about_a_failed_worker_its_own_sentence_is_shown():
    text = (
        "Traceback (most recent call last):\n  File x\nmolo_jax.errors.MoloError: /a/b cannot be"
        " written: full. Go on\n\nDuring handling\n"
        "molo_jax.errors.MoloError: /a/b cannot be written: full. Go on [while running 'Prepare']\n"
    )
    runner = Beam("DirectRunner")
    assert runner._explained(RuntimeError(text)) == "/a/b cannot be written: full. Go on"
    assert runner._explained(ValueError("one\n  two")) == (
        "--beam_runner=DirectRunner: ValueError: one two. Record files that are whole are kept; the"
        " same command goes on from there"
    )
