import os
import signal
import time

import pytest

from molo_jax.data.processes import in_order


def double(number):
    time.sleep(0.05 * (number % 3 == 0))
    return 2 * number


def misbehave(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 3:
        time.sleep(60)
    return number


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
