import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from molo_jax.data.store.processes import cores, in_order


def double(number):
    time.sleep(0.05 * (number % 3 == 0))
    return 2 * number


def misbehave(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 3:
        time.sleep(60)
    return number


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        # From Python 3.13 on.
        ({"process_cpu_count": lambda: 3, "sched_getaffinity": lambda _: {0, 5}}, 3),
        ({"process_cpu_count": lambda: None}, 1),
        # Linux before.
        ({"sched_getaffinity": lambda _: {0, 5}, "cpu_count": lambda: 64}, 2),
        # macOS before.
        ({"cpu_count": lambda: 10}, 10),
        ({"cpu_count": lambda: None}, 1),
    ],
)
def test_cores_are_counted_with_what_the_system_has(system, expected, monkeypatch):
    for name in ("process_cpu_count", "sched_getaffinity", "cpu_count"):
        monkeypatch.delattr(os, name, raising=False)
        if name in system:
            monkeypatch.setattr(os, name, system[name], raising=False)
    assert cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="of Linux alone")
def test_cores_are_those_that_the_process_may_use():
    allowed = sorted(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{allowed[0]}}});"
        "from molo_jax.data.store.processes import cores; print(cores())"
    )
    root = str(Path(__file__).parents[3])
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert (said.stdout, cores()) == ("1\n", len(allowed))


def test_results_come_in_the_order_of_the_tasks():
    results = list(in_order(double, ((n,) for n in range(40)), workers=3, seconds=30))
    assert results == [2 * n for n in range(40)]


def test_a_crash_and_a_hang_cost_their_own_task_alone():
    results = list(in_order(misbehave, ((n,) for n in range(8)), workers=2, seconds=2))
    assert [results[n] for n in (0, 2, 4, 5, 6, 7)] == [0, 2, 4, 5, 6, 7]
    assert results[1].startswith("decoding it crashed the process (exit code ")
    assert results[3] == "decoding it took longer than 2 s"


def test_tasks_are_read_no_further_ahead_than_the_processes_need():
    read = []

    def tasks():
        for number in range(1000):
            read.append(number)
            yield (number,)

    results = in_order(double, tasks(), workers=2, seconds=30)
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    results.close()
    assert len(read) <= 12


def fail(number):
    raise ValueError(f"no {number}")


def test_an_unexpected_error_is_not_hidden():
    with pytest.raises(ValueError, match="no 5"):
        list(in_order(fail, [(5,)], workers=1, seconds=30))


# Begins to work in processes. The rest of the program is run by the processes too, at their start.
INTERRUPTED_AT_THE_START = """
import multiprocessing.util, os, signal, time
from molo_jax.data.store import processes
from molo_jax.data import synthetic
from pathlib import Path

start = multiprocessing.util.spawnv_passfds


def start_and_interrupt(path, arguments, handles):
    pid = start(path, arguments, handles)
    if b"spawn_main" in b" ".join(map(os.fsencode, arguments)):
        time.sleep(0.5)  # the process waits for its work now
        os.killpg(0, signal.SIGINT)  # as a terminal does
    return pid


if __name__ == "__main__":
    multiprocessing.util.spawnv_passfds = start_and_interrupt
    try:
        {work}
    except KeyboardInterrupt:
        print("interrupted")
"""
IN_ORDER = "list(processes.in_order(abs, [(n,) for n in range(9)], workers=1, seconds=60))"
GENERATE = "synthetic.generate(Path('made'), seed=0, workers=1)"


def run_program(text, folder):
    (folder / "program.py").write_text(text)
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=120,
    )


@pytest.mark.parametrize("work", [IN_ORDER, GENERATE])
def test_an_interrupt_while_a_process_is_being_started_shows_no_trace(tmp_path, work):
    result = run_program(INTERRUPTED_AT_THE_START.format(work=work), tmp_path)
    assert "Traceback" not in result.stderr
    assert "leaked" not in result.stderr
    assert result.stdout == "interrupted\n"
    assert result.returncode == 0


# Stops the work while its process has not come further than to the beginning of this program.
STOPPED_AT_THE_START = """
import time
from molo_jax.data.store import processes
import pebble.pool.process

end = pebble.pool.process.stop_process


def end_late(process):
    time.sleep(2)
    end(process)


def read():
    yield (1,)
    raise ValueError("the list is bad")


if __name__ == "__main__":
    pebble.pool.process.stop_process = end_late
    try:
        list(processes.in_order(abs, read(), workers=1, seconds=60))
    except ValueError as error:
        print(error)
else:
    time.sleep(1)
"""


def test_work_that_ends_while_a_process_is_starting_shows_no_trace(tmp_path):
    result = run_program(STOPPED_AT_THE_START, tmp_path)
    assert result.stderr == ""
    assert result.stdout == "the list is bad\n"
    assert result.returncode == 0
