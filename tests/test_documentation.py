"""Every documented command is run, small: here, or in the test that the table names.

The table knows commands by their program, flags and what decides their work, not by their paths and
numbers. A new documented command, or a flag that no run uses, fails until the table has a row.
"""

import fnmatch
import functools
import json
import os
import re
import subprocess
import sys
import tomllib

import documented
import pytest
from documented import BENCHMARKS, ROOT, TABLE, Shape

from molo_jax.config import base_config, config_keys
from molo_jax.data.store.records import prepared_folder
from molo_jax.methods.settings import METHODS, own_fields

TINY_EPISODES = ("--n_way=2", "--n_shot=1", "--n_query=1", "--train_n_query=1", "--num_frames=2")


@functools.cache
def all_commands() -> dict[str, tuple[str, Shape]]:
    """Each documented command with where it is first found, taken apart."""
    found = {}
    for path in documented.documents():
        for command in documented.commands(path):
            found.setdefault(command, (str(path.relative_to(ROOT)), documented.shape(command)))
    return found


def test_every_documented_command_has_a_row():
    lacking = [
        f"{where}: {command}"
        for command, (where, shape) in all_commands().items()
        if not any(row.covers(shape) for row in TABLE)
    ]
    assert lacking == []


def test_every_row_names_tests_that_exist_and_a_command_that_is_documented():
    for row in TABLE:
        assert any(row.covers(shape) for _, shape in all_commands().values()), row
        for test in row.tests:
            file, _, name = test.partition("::")
            functions = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.M)
            assert fnmatch.filter(functions, name), f"{test} does not exist"


def test_every_key_of_the_configuration_in_a_command_exists():
    keys = {key for _, shape in all_commands().values() for key in shape.keys} - {"KEY"}
    assert keys
    assert keys <= set(config_keys(base_config()))


def test_commands_are_found_in_blocks_in_sentences_and_in_docstrings(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Run `make all` and `python x.py\n--a=1`, not `x.py`.\n\n```sh\n"
        "$ python -m a.b --c=1 \\\n  --d=2       # a remark\nnohup make test &\n"
        "python3 -m venv v && pip install -e '.[torch]'\nls\n```\n"
    )
    assert documented.commands(page) == [
        "python -m a.b --c=1 --d=2",
        "make test",
        "python3 -m venv v",
        "pip install -e '.[torch]'",
        "make all",
        "python x.py --a=1",
    ]
    module = tmp_path / "module.py"
    module.write_text('"""What it is.\n\n    python -m a.b [--c=1]\n"""\nX = """\nmake none\n"""\n')
    assert documented.commands(module) == ["python -m a.b [--c=1]"]


def test_a_command_keeps_its_shape_when_paths_and_numbers_change_and_a_new_flag_has_no_row():
    def shape(words):
        return documented.shape(f"python -m molo_jax.prepare --dataset=folder {words}")

    assert shape("--videos=DIR --n_way=3") == shape("--videos=/a/b --n_way=5")
    assert any(row.covers(shape("--videos=DIR")) for row in TABLE)
    assert not any(row.covers(shape("--videos=DIR --surprise=1")) for row in TABLE)
    assert not any(row.covers(documented.shape("python -m molo_jax.surprise")) for row in TABLE)
    assert documented.shape("molo-jax prepare --dataset=folder --videos=DIR") == shape("--videos=D")
    method = documented.shape("python -m molo_jax.main --config=configs/folder.py:otam")
    assert method.values == (("config", "folder"), ("method", "otam"))
    assert [row.values for row in TABLE if row.covers(method)] == [{"config": "*", "method": "?*"}]


# The runs


# A command may take its flags once only: this runs several in one process, which imports once and
# goes on behind a command that fails.
_DRIVER = """
import contextlib, importlib, io, json, os, sys
from absl import flags
from absl.testing import flagsaver
from molo_jax import cli
def stop(code):
    raise SystemExit(code)
cli.end_process = stop
module = importlib.import_module(sys.argv[1])
runs = []
for arguments in json.loads(sys.argv[2]):
    said, errors = io.StringIO(), io.StringIO()
    sys.argv = [module.__name__, *arguments]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        try:
            with flagsaver.flagsaver():
                cli.run(module.main, getattr(module, 'ARGUMENTS', ()))
        except SystemExit as end:
            code = end.code or 0
    runs.append([code, said.getvalue(), errors.getvalue()])
print(json.dumps(runs))
"""


def run_all(module, commands, folder, **environment):
    """Runs a command of the package once for each list of arguments: code, output and errors."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    result = subprocess.run(
        [sys.executable, "-c", _DRIVER, module, json.dumps([[*map(str, c)] for c in commands])],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def arguments_of(program, **values):
    """The words behind the program of each documented command, and its shape."""
    for command, (_, shape) in all_commands().items():
        if shape.program == program and dict(shape.values).items() >= values.items():
            # `molo-jax COMMAND`, or `python -m molo_jax.COMMAND`.
            yield command.split()[2 if command.startswith("molo-jax ") else 3 :], shape


def error_line(errors):
    """The last line, which is the only one of an error."""
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_make_knows_every_documented_target():
    targets = {
        shape.arguments[0] for _, shape in all_commands().values() if shape.program == "make"
    }
    assert {"demo", "test", "lint"} <= targets
    for target in sorted(targets):
        run = subprocess.run(
            ["make", "-n", target], capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert run.returncode == 0, run.stderr
        assert re.search(r"python (-m |benchmarks/)|ruff", run.stdout)


def test_what_is_installed_by_hand_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for command, (_, shape) in all_commands().items():
        if shape.program == "pip":
            assert set(re.findall(r"\[(.*?)\]", command)) <= set(extras), command
            constraints = re.search(r"-c (\S+)", command)
            assert constraints is None or (ROOT / constraints[1]).is_file()
            wheels = [word for word in shape.arguments if word.endswith(".whl")]
            assert all(re.fullmatch(r"(dist/)?molo_jax-\*\.whl", word) for word in wheels), command
        if shape.program == "pytest":
            files = [word for word in shape.arguments if not word.startswith("-")]
            assert files
            assert all((ROOT / name).exists() for name in files)
        if shape.program == "ruff":
            assert shape.arguments in (("check", "."), ("format", "."))
        if shape.program == "venv":
            assert shape.arguments == (".venv",)


@pytest.fixture(scope="module")
def tree(tmp_path_factory, write_motion):
    """Videos of two classes for each split, and lists in the official format."""
    root = tmp_path_factory.mktemp("documented")
    (root / "lists").mkdir()
    for split in ("train", "val", "test"):
        lines = []
        for class_id in (0, 1):
            for number in (0, 1):
                name = f"{split}_{class_id}/{number}.mp4"
                write_motion(root / "videos" / name, class_id, number, frames=4)
                lines.append(f"{split}{class_id}//{name}\n")
        (root / "lists" / f"{split}_few_shot.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def prepared(tree):
    """What each documented preparation of a benchmark says: without network, and with lists."""
    documented_ones = [
        words for words, shape in arguments_of("molo_jax.prepare") if shape.values and words
    ]
    named = {name: [w for w in documented_ones if f"--dataset={name}" in w] for name in BENCHMARKS}
    assert all(named.values())
    # A place that answers nothing stands for a machine without network.
    nowhere = dict.fromkeys(("https_proxy", "http_proxy"), "http://127.0.0.1:9")
    cache = str(tree / "cache")
    offline = [
        [*(w for w in words[0] if not w.startswith("--videos=")), f"--videos={tree}/videos"]
        for words in named.values()
    ]
    small = [
        *(f"--splits_dir={tree}/lists", "--resize=32", "--workers=1", *TINY_EPISODES),
        f"--out={tree}/prepared",
    ]
    runs = run_all(
        "molo_jax.prepare",
        [*offline, *([*words, *small] for words in offline)],
        tree,
        XDG_CACHE_HOME=cache,
        no_proxy="",
        **nowhere,
    )
    count = len(BENCHMARKS)
    return dict(zip(BENCHMARKS, zip(runs[:count], runs[count:], strict=True), strict=True))


@pytest.mark.parametrize("dataset", BENCHMARKS)
def test_the_benchmarks_are_prepared_as_documented(prepared, tree, dataset):
    (code, _, errors), (small_code, said, small_errors) = prepared[dataset]
    assert code == 1
    assert re.search(r"(fetch|download).*--splits_dir", error_line(errors)), errors
    assert small_code == 0, small_errors
    assert re.search(rf"^next +python -m molo_jax\.main --config=configs/{dataset}_", said, re.M)
    records = prepared_folder(tree / "prepared", dataset).glob("*.array_record*-of-00001")
    assert len(list(records)) == 3


def test_a_folder_of_classes_is_divided_as_documented(tree, tmp_path):
    command = ["--dataset=folder", f"--videos={tree}/videos", f"--out={tmp_path}/out"]
    small = ["--ratio=2,2,2", "--seed=1", "--resize=32", "--workers=1", *TINY_EPISODES]
    (tmp_path / "classes.csv").write_text(
        "class,split\n"
        + "".join(f"{s}_{c},{s}\n" for s in ("train", "val", "test") for c in (0, 1))
    )
    divided, named = run_all(
        "molo_jax.prepare",
        [
            [*command, *small],
            [
                *command[:2],
                *small[1:],
                f"--out={tmp_path}/b",
                f"--split_file={tmp_path}/classes.csv",
            ],
        ],
        tmp_path,
    )
    for code, said, errors in (divided, named):
        assert code == 0, errors
        assert "--config=configs/folder.py" in said
    lists = tmp_path / "out/splits/folder"
    classes = [
        {line.partition("//")[2].split("/")[0] for line in path.read_text().splitlines()}
        for path in sorted(lists.glob("*_few_shot.txt"))
    ]
    assert [len(c) for c in classes] == [2, 2, 2]
    assert len(set.union(*classes)) == 6


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """What each configuration says as it is documented, in a folder without data."""
    folder = tmp_path_factory.mktemp("empty")
    names = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    # Random weights, for the pretrained ones are asked for first and would be downloaded.
    commands = [
        [f"--config={ROOT}/configs/{name}.py", "--workdir=run", "--config.model.pretrained="]
        for name in names
    ]
    runs = run_all("molo_jax.main", commands, folder)
    return dict(zip(names, runs, strict=True))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*.py")))
def test_a_configuration_without_its_data_names_the_command_that_prepares_them(refused, name):
    code, said, errors = refused[name]
    assert (code, said) == (1, "")
    dataset = name.removesuffix("_1shot").removesuffix("_5shot")
    assert f"python -m molo_jax.prepare --dataset={dataset}" in error_line(errors)
    documented_here = [
        s for w, s in arguments_of("molo_jax.main", config=name) if "workdir" in s.flags
    ]
    assert documented_here, f"configs/{name}.py does not name its command"


CHOSEN = sorted(
    {tuple(words) for words, s in arguments_of("molo_jax.main") if "method" in dict(s.values)}
)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """What each documented choice of a method says, and each method for the demonstration."""
    words = [*CHOSEN, *([f"--config=configs/synthetic.py:{name}"] for name in (*METHODS, "none"))]
    commands = [
        [
            *(word.replace("=configs/", f"={ROOT}/configs/") for word in each),
            "--config.model.pretrained=",
        ]
        for each in words
    ]
    runs = run_all("molo_jax.main", commands, tmp_path_factory.mktemp("methods"))
    return dict(zip(map(tuple, words), runs, strict=True))


@pytest.mark.parametrize("words", CHOSEN, ids=" ".join)
def test_a_documented_method_is_chosen_behind_the_name_of_the_file(chosen, words):
    code, said, errors = chosen[words]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    file, method = given["--config"].split(":")
    if "--list_keys" in words:
        assert code == 0, errors
        assert f"--config.method.name={method}\n" in said
        assert all(f"--config.method.{name}=" in said for name in own_fields(METHODS[method]))
    elif "--config.init_from" in given:
        assert code == 1
        assert given["--config.init_from"] in error_line(errors)
    else:
        dataset = re.sub(r"configs/(.*?)(_[15]shot)?\.py", r"\1", file)
        assert code == 1
        assert f"python -m molo_jax.prepare --dataset={dataset}" in error_line(errors)


def test_every_method_is_chosen_for_the_demonstration(chosen):
    for name in METHODS:
        code, _, errors = chosen[(f"--config=configs/synthetic.py:{name}",)]
        assert code == 1
        assert "python -m molo_jax.prepare --dataset=synthetic" in error_line(errors)
    code, _, errors = chosen[("--config=configs/synthetic.py:none",)]
    assert code == 2
    assert f"method 'none' is unknown; choose one of {', '.join(METHODS)}" in error_line(errors)


def test_the_memory_of_the_input_pipeline_is_printed(prepared, tree):
    program = ROOT / "benchmarks/data_memory.py"
    for source in (
        [f"--out={tree}/prepared", "--dataset=ssv2"],
        [f"--videos={tree}/videos", f"--splits_dir={tree}/lists"],
    ):
        result = subprocess.run(
            [sys.executable, program, *source, "--clips=1000"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert result.returncode == 0, result.stderr
        growth = re.search(
            r"^growth: \S+ MiB in 100,000 clips, largest (\d+) MiB", result.stdout, re.M
        )
        assert 100 < int(growth[1]) < 3000
