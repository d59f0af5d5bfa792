import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from molo_jax import cli
from molo_jax.errors import UsageError
from molo_jax.workdir import work_folder

ROOT = Path(__file__).parents[1]
MISSPELT = """from molo_jax.config import base_config
def get_config():
    config = base_config()
    config.train.stpes = 5
"""
SYNTHETIC = f"--config={ROOT}/configs/synthetic.py"


def run(*arguments, cwd):
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def error_of(*arguments, cwd, code=2):
    """Runs a command that must fail; returns its one line on stderr."""
    result = run(*arguments, cwd=cwd)
    assert result.returncode == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (["--config.eval.ways=5:6"], ["--config.eval.ways=5", "--config.eval.ways=6"]),
        (["--config.eval.shots", "2:3"], ["--config.eval.shots=2", "--config.eval.shots=3"]),
        (["--config.eval.ways=5", "--config.eval.ways=10"],) * 2,
        (["--config.eval.shots", "4"],) * 2,
        (["--config.eval.ways=(5, 6)", "--config.data.root=1:2"],) * 2,
    ],
)
def test_a_range_of_ways_or_shots_stands_for_one_flag_for_each_number(given, plain):
    assert cli._without_ranges(given) == plain


@pytest.mark.parametrize("value", ["10:5", "5:", ":5", "5..7", "5:7:9", "1:99999", "a:b"])
def test_a_wrong_range_is_refused_with_an_example(value):
    with pytest.raises(UsageError, match=r"expected a whole number, or a range FIRST:LAST, such"):
        cli._without_ranges([f"--config.eval.ways={value}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --config=FILE is required, for example --config=configs/synthetic.py"),
        (["--config=none.py"], "error: configuration file 'none.py' does not exist"),
        ([SYNTHETIC, "--config.train.stpes=5"], "did you mean --config.train.steps?"),
        ([SYNTHETIC, "--config.crop=64"], "did you mean --config.data.crop?"),
        (
            [f"{SYNTHETIC}:trx", "--config.method.reconstruction=1"],
            "unknown key --config.method.reconstruction; reconstruction is a setting of molo, and"
            " the method is trx",
        ),
        (
            [SYNTHETIC, "--config.method.dropout_relation=0"],
            "dropout_relation is a setting of hyrsm and hyrsm_pp, and the method is molo",
        ),
        ([SYNTHETIC, "--config.method.crop=64"], "did you mean --config.data.crop?"),
        ([SYNTHETIC, "--config.train=5"], "--config.train is a section; set one of its keys"),
        (
            [SYNTHETIC, "--config.train.steps=many"],
            "--config.train.steps=many: expected a whole number",
        ),
        ([SYNTHETIC, "--config.data.crop=40"], "config.data.crop is 40; it must be divisible"),
        ([SYNTHETIC, "--wrkdir=x"], "error: unknown flag --wrkdir; did you mean --workdir?"),
        ([SYNTHETIC, "--mode=test"], "--mode=test: value should be one of"),
        ([SYNTHETIC, "train"], "unexpected argument 'train'; flags are written --name=value"),
        ([SYNTHETIC, "--workdir=/proc/none"], "error: --workdir=/proc/none cannot be made"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    assert message in error_of("molo_jax.main", *arguments, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dataset=imagenet", "--videos=v", "--out=x"],
            "--dataset=imagenet is not known; choose",
        ),
        (["--dataset=synthetic"], "--out must be given"),
        (["--dataset=synthetic", "--out=x", "--seed=-1"], "--seed=-1"),
        (["--dataset=synthetic", "--out=x", "--seed=x"], "--seed=x: expected a whole number\n"),
        (["--dataset=synthetic", "--out=x", "--timeout=y"], "--timeout=y: expected a number\n"),
    ],
)
def test_prepare_says_which_datasets_and_flags_it_knows(arguments, message, tmp_path):
    assert message in error_of("molo_jax.prepare", *arguments, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.pyth"], "error: SRC and DST are required; --help says what they are"),
        (["a.pyth", "out", "more"], "unexpected argument 'more'; flags are written --name=value"),
        (["a.pyth", "out", "--overwrit"], "unknown flag --overwrit; did you mean --overwrite?"),
        (["a.pyth", "b.pth"], "SRC is a.pyth and DST is b.pth: both are a PyTorch file (.pth, "),
        (["a", "b"], "neither is a PyTorch file (.pth, .pyth or .safetensors). To molo_jax: "),
        (["a.pth", "b", "--layout=bare"], "--layout=bare is for writing a PyTorch file; b is none"),
        (["a", "b.safetensors", "--layout=official"], "--layout=official needs a .pth or .pyth"),
    ],
)
def test_convert_says_which_arguments_it_wants(arguments, message, tmp_path):
    assert message in error_of("molo_jax.convert", *arguments, cwd=tmp_path)


def test_absent_data_is_one_line_that_says_where_they_belong_and_how_to_get_them(tmp_path):
    arguments = (
        *(f"--config={ROOT}/configs/ssv2_5shot.py", "--workdir=w"),
        # Otherwise the weights are looked for first.
        "--config.model.pretrained=",
    )
    line = error_of("molo_jax.main", *arguments, cwd=tmp_path, code=1)
    assert "there are no prepared videos of ssv2 in data/prepared" in line
    assert "https://www.qualcomm.com/developer/software/something-something-v-2-dataset" in line
    assert "molo_jax.prepare --dataset=ssv2 --videos=DIR --out=data/prepared" in line
    line = error_of(
        "molo_jax.main", *arguments, "--config.data.source=videos", cwd=tmp_path, code=1
    )
    assert "the video folder data/ssv2/videos does not exist" in line
    assert "https://www.qualcomm.com/developer/software/something-something-v-2-dataset" in line
    assert "--config.data.root" in line
    # A failed command leaves no empty folder behind.
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_flags_and_exits_without_error(tmp_path):
    result = run("molo_jax.main", "--help", cwd=tmp_path)
    assert "--config" in result.stdout
    assert "--workdir" in result.stdout
    assert "--list_keys lists the keys" in " ".join(result.stdout.split())
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1\n\ndef get_config(:", "failed, line 3: SyntaxError"),
        ("import nowhere", "failed, line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("x = 1", r"defines no function get_config\(\); expected one that returns"),
        ("x = 0\n\ndef get_config():\n  return 1 / x", "failed, line 4: ZeroDivisionError"),
        (MISSPELT, 'failed, line 4: AttributeError: Key "stpes" .* Did you mean "steps"'),
        ("def get_config(): return {}", "returned dict, no ConfigDict"),
    ],
)
def test_a_configuration_file_that_fails_is_named_with_the_reason(body, message, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(body)
    with pytest.raises(UsageError, match=f"{path}.*{message}"):
        cli.load_config(str(path))


def program(tmp_path, body):
    path = tmp_path / "command.py"
    path.write_text(
        textwrap.dedent("""
            import signal, sys, time
            from molo_jax import cli
            from molo_jax.errors import MoloError
            def main(argv):
        """)
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "\ncli.run(main)\n"
    )
    return [sys.executable, str(path)]


def test_a_known_error_is_one_line_and_exit_code_1(tmp_path):
    command = program(tmp_path, "raise MoloError('class 17 has 4 videos')")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "error: class 17 has 4 videos\n"


def test_an_interrupt_is_one_line_and_exit_code_130(tmp_path):
    # Short sleeps: a signal just before a sleep begins is answered at its end only.
    waiting = "print('ready', flush=True)\nwhile True:\n    time.sleep(0.05)"
    command = program(tmp_path, waiting)
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A job in the background of a shell starts with interrupts ignored, and so its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert errors == "error: interrupted\n"


def test_an_error_of_the_program_keeps_its_trace(tmp_path):
    command = program(tmp_path, "raise RuntimeError('a defect')")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "RuntimeError: a defect" in result.stderr


def test_an_unwritable_place_is_one_line_without_a_trace(capsys):
    def work():
        raise PermissionError(13, "Permission denied", "/proc/here")

    with pytest.raises(SystemExit) as stopped:
        cli._guard(work)
    assert stopped.value.code == 1
    remedy = "make it writable, or choose another folder"
    assert capsys.readouterr().err == f"error: /proc/here: Permission denied; {remedy}\n"


def test_a_failed_command_ends_although_a_library_left_a_thread_running(tmp_path):
    body = """
        import threading
        threading.Thread(target=time.sleep, args=(10**6,)).start()
        print("said before", end="")
        raise MoloError("the disk is full")
    """
    result = subprocess.run(
        program(tmp_path, body), capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 1
    assert result.stderr == "error: the disk is full\n"
    assert result.stdout == "said before"


def test_sigterm_is_one_line_and_exit_code_143_where_there_is_nothing_to_save(tmp_path):
    body = """
        import os
        from molo_jax import stopping
        with stopping.ending_at_once():
            os.kill(os.getpid(), signal.SIGTERM)
    """
    result = subprocess.run(
        program(tmp_path, body), capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 143
    first, last = result.stderr.splitlines()
    assert first.endswith("SIGTERM received: stopping")
    assert last == "error: stopped by SIGTERM"


# Files of this process cannot grow beyond 20 kB, which fails as a full disk does.
FILL = """
    import resource
    from pathlib import Path
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    place = Path({place!r})
    from molo_jax.engine.{module} import {name}
"""
FILL_CHECKPOINT = """
    import jax, jax.numpy as jnp
    model = {f"layer{i}": jax.random.normal(jax.random.key(i), (100, 100)) for i in range(30)}
    with Checkpoints(place / "checkpoints") as checkpoints:
        checkpoints.save(3, meta={"a": 1}, model=model, optimizer=model)
"""
FILL_METRICS = """
    with MetricLog(place, 0) as log:
        for step in range(10**6):
            log.write(step, "train", {f"term{i}": i / 7 for i in range(20)})
"""


@pytest.mark.parametrize(
    ("module", "name", "work", "message"),
    [
        ("checkpoint", "Checkpoints", FILL_CHECKPOINT, "the checkpoint {}/checkpoints/3 cannot be "
         "saved: File too large; allow larger files there (ulimit -f), then run the same"),
        ("metrics", "MetricLog", FILL_METRICS, "{}/tensorboard cannot be written: File too large; "
         "allow larger files there (ulimit -f), then run the same"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_written_is_one_line_that_names_it_and_the_remedy(
    tmp_path, module, name, work, message
):
    place = tmp_path / "run"
    place.mkdir()
    body = FILL.format(place=str(place), module=module, name=name) + work
    # JAX would warn of each compiled program that it cannot write to its cache.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    result = subprocess.run(
        program(tmp_path, body),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 1
    assert result.stderr == f"error: {message.format(place)} command again\n"
    assert not list(place.glob("**/*tmp*"))
    assert not list(place.glob("checkpoints"))


def test_a_second_training_is_refused_before_it_looks_for_its_data(tmp_path):
    arguments = SYNTHETIC, f"--workdir={tmp_path}/run", "--config.data.prepared=nowhere"
    with work_folder(tmp_path / "run", for_training=True):
        line = error_of("molo_jax.main", *arguments, cwd=tmp_path, code=1)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert f"a training is at work in {tmp_path}/run (process {os.getpid()}); wait" in line


def test_the_keys_of_a_configuration_are_listed_with_value_and_meaning(tmp_path):
    result = run("molo_jax.main", SYNTHETIC, "--config.seed=7", "--list_keys", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--config.seed=7\n    Every random choice is a function of this" in result.stdout
    assert list(tmp_path.iterdir()) == []
