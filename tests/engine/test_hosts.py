import contextlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from molo_jax.engine import hosts


class Store:
    """The key-value store of JAX's coordination service, in this process."""

    def __init__(self):
        self.content, self._changed = {}, threading.Condition()

    def key_value_set_bytes(self, key, content):
        with self._changed:
            assert key not in self.content
            self.content[key] = content
            self._changed.notify_all()

    def blocking_key_value_get_bytes(self, key, milliseconds):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.content, milliseconds / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
            return self.content[key]

    def key_value_delete(self, key):
        with self._changed:
            del self.content[key]


@pytest.fixture
def several(monkeypatch):
    """Runs a function as three processes, which are threads; returns what each returned."""
    store, own = Store(), threading.local()
    monkeypatch.setattr(hosts, "_state", lambda: own.state)
    monkeypatch.setattr(hosts, "_ASKED_MS", 20)
    exchanges = [hosts._Exchange(store, number, 3) for number in range(3)]
    monkeypatch.setattr(hosts, "_exchange", lambda: exchanges[own.state.process_id])

    def run(work):
        def process(number):
            own.state = SimpleNamespace(process_id=number, num_processes=3, client=store)
            return work(number)

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(process, range(3)))

    run.store = store
    return run


def test_one_process_is_the_first_and_hears_itself():
    assert (hosts.index(), hosts.count(), hosts.is_first()) == (0, 1, True)
    assert hosts.broadcast({"a": (1, 2)}) == {"a": (1, 2)}
    assert hosts.gather_values("x") == ["x"]
    np.testing.assert_array_equal(hosts.gather(np.arange(3))[0], np.arange(3))
    assert hosts.largest(-4) == -4
    assert hosts.LargestSoFar()(7) == 7
    hosts.barrier("anywhere")


def test_one_process_imports_no_jax_for_it():
    program = (
        "import sys; from molo_jax.engine import hosts; hosts.broadcast(1); hosts.barrier('x');"
        " print(hosts.count(), 'jax' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "1 False\n"


def test_processes_know_their_numbers(several):
    heard = several(lambda number: (hosts.index(), hosts.count(), hosts.is_first()))
    assert heard == [(0, 3, True), (1, 3, False), (2, 3, False)]


def test_all_get_the_value_of_process_0_with_every_bit(several):
    value = [0.1 + 0.2, 5e-324, "ä", None, {"x": 2**62}]
    assert several(lambda number: hosts.broadcast(value if number == 0 else number)) == [value] * 3


def test_all_get_the_arrays_of_all_in_order(several):
    def work(number):
        return hosts.gather(np.full((number, 2), number / 3, np.float64))

    for heard in several(work):
        assert [array.shape for array in heard] == [(0, 2), (1, 2), (2, 2)]
        assert heard[2].dtype == np.float64
        assert (heard[2] == 2 / 3).all()


def test_the_largest_number_wins_wherever_it_is(several):
    assert several(lambda number: hosts.largest([3, 15, -7][number])) == [15] * 3


def test_nobody_leaves_a_barrier_before_the_last_has_come(several):
    late = []

    def work(number):
        if number == 1:
            time.sleep(0.2)
            late.append(number)
        hosts.barrier("here")
        return list(late)

    assert several(work) == [[1]] * 3


def test_processes_at_different_places_are_an_error_in_all(several):
    def work(number):
        with pytest.raises(RuntimeError, match=r"different places.*'a', 'b', 'a'"):
            hosts.barrier("ab"[number % 2])

    several(work)


def test_what_everybody_has_read_is_removed(several):
    def work(number):
        for _ in range(20):
            hosts.broadcast(number)
            hosts.gather_values(number)

    several(work)
    assert len(several.store.content) == 3


def test_an_error_of_the_service_is_no_delay(several):
    def work(number):
        with pytest.raises(RuntimeError, match="UNAVAILABLE"):
            hosts.broadcast(1)

    def lost(*_):
        raise RuntimeError("UNAVAILABLE: Socket closed")

    several.store.blocking_key_value_get_bytes = several.store.key_value_set_bytes = lost
    several(work)


def test_a_process_that_works_alone_is_the_only_one(monkeypatch):
    state = SimpleNamespace(process_id=2, num_processes=3, client=object())
    module = SimpleNamespace(global_state=state)
    monkeypatch.setitem(sys.modules, "jax._src.distributed", module)
    assert (hosts.index(), hosts.count(), hosts.is_first()) == (2, 3, False)
    with hosts.alone():
        assert (hosts.index(), hosts.count(), hosts.is_first()) == (0, 1, True)
        assert hosts.broadcast("own") == "own"
    assert (hosts.index(), hosts.count()) == (2, 3)
    with contextlib.suppress(OSError), hosts.alone():
        raise OSError("full")
    assert (hosts.index(), hosts.count()) == (2, 3)
