"""The command; what it counts is tested in test_training_cost.py."""

import json
import re

import pytest
from documented import ROOT
from test_documentation import arguments_of, error_line, run_all

from molo_jax.cli import load_config

SYNTHETIC = f"--config={ROOT}/configs/synthetic.py"
WRONG = {
    "--num_classes=0": "--num_classes=0: expected 1 to 1,000,000",
    "--num_classes=many": "--num_classes=many: expected a whole number",
    "--memory=24": "--memory=24: expected a number above 0 with its unit (GiB, MiB, TiB, GB, MB,"
    " TB), for example --memory=24GiB",
    "--memory=0GiB": "--memory=0GiB: expected a number above 0",
    "--memory=-1GiB": "--memory=-1GiB: expected a number above 0",
    "--memory=24GHz": "--memory=24GHz: expected a number above 0 with its unit",
    "--peak=989TFLOPS": "--peak needs --utilization, for example --peak=989TFLOPS"
    " --utilization=0.35",
    "--utilization=0.3": "--utilization needs --peak",
    "--peak=989 --utilization=0.3": "--peak=989: expected a number above 0 with its unit (TFLOPS,",
    "--peak=1TFLOPS --utilization=0": "--utilization=0.0: expected a number above 0 and at most 1",
    "--peak=1TFLOPS --utilization=nan": "--utilization=nan: expected a number above 0",
    "--json=/no/such/folder/x": "--json=/no/such/folder/x: expected a file in a folder that exists",
    "--json=/": "--json=/: expected a file in a folder that exists",
    "--config.data.crop=40": "config.data.crop is 40; it must be divisible by 32",
    "--config.train.microbatch=3 --config.train.episodes_per_step=16": "episodes_per_step is 16; it"
    " must be divisible by train.microbatch, 3",
    "--memroy=24GiB": "unknown flag --memroy; did you mean --memory?",
    "more": "unexpected argument 'more'",
}
SMALL = ["--config.data.num_frames=2", "--config.model.backbone=resnet18", "--config.data.crop=32"]


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summary")
    runs = run_all("molo_jax.summary", [[SYNTHETIC, *words.split()] for words in WRONG], folder)
    assert list(folder.iterdir()) == []
    return dict(zip(WRONG, runs, strict=True))


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_flag_is_one_line_and_exit_code_2(refused, words):
    code, said, errors = refused[words]
    assert (code, said) == (2, "")
    assert WRONG[words] in error_line(errors)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The command as documented on a benchmark and on other data, and the files it wrote."""
    folder = tmp_path_factory.mktemp("summary")
    (folder / "b.json").write_text("old")
    device = ["--memory=24GiB", "--peak=989TFLOPS", "--utilization=0.5"]
    commands = [
        [
            f"--config={ROOT}/configs/kinetics100_1shot.py:protonet",
            *SMALL,
            *device,
            "--json=a.json",
        ],
        [f"{SYNTHETIC}:protonet", *SMALL, "--num_classes=5", "--json=b.json"],
    ]
    documented = list(arguments_of("molo_jax.summary", config="ssv2_1shot"))
    commands += [
        [word.replace("=configs/", f"={ROOT}/configs/") for word in words]
        for words, _ in documented
    ]
    results = run_all("molo_jax.summary", commands, folder)
    return results, folder


def test_the_command_needs_no_data_and_writes_what_it_prints(runs):
    ((code, said, errors), *_), folder = runs
    assert (code, errors) == (0, "")
    found = json.loads((folder / "a.json").read_text())
    assert "protonet on resnet18, 64 training classes" in said
    assert f"{found['parameters']['total']:,}" in said
    assert found["device"] == {"memory": 24 * 2**30, "rate": 989e12 / 2}
    operations = found["train"]["steps"] * sum(found["flops"]["step"].values())
    assert found["training_hours"] == pytest.approx(operations / (989e12 / 2) / 3600)
    assert found["largest_microbatch"]["float32"]["none"] == found["train"]["episodes_per_step"]
    assert {path.name for path in folder.iterdir()} == {"a.json", "b.json"}


def test_the_number_of_classes_can_be_given_and_a_file_is_replaced(runs):
    (_, (code, said, errors), _), folder = runs
    assert (code, errors) == (0, "")
    assert "protonet on resnet18, 5 training classes" in said
    found = json.loads((folder / "b.json").read_text())
    assert found["architecture"]["num_classes"] == 5
    assert found["training_hours"] is None


def test_the_table_of_the_documentation_is_what_the_command_prints(runs):
    (*_, (code, said, errors)), _ = runs
    assert (code, errors) == (0, "")
    page = (ROOT / "docs/training.md").read_text()
    shown = re.search(r"^```\n(molo on .*?)^```", page, re.M | re.S)[1]
    assert said == shown
    # As shipped on a card with 24 GB, a margin left; with what the page names, on one with 12 GB.
    config = load_config(f"{ROOT}/configs/ssv2_1shot.py")
    assert (config.train.precision, config.train.remat) == ("tf32", "blocks")
    rows = [line.split() for line in said.splitlines()]
    peak = {(row[0], row[1]): float(row[3]) for row in rows if row[:1] in (["tf32"], ["bf16"])}
    assert peak["tf32", "blocks"] < 20
    assert peak["bf16", "blocks"] < 10
