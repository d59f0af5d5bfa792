import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from molo_jax import meeting
from molo_jax.errors import MoloError, UsageError
from molo_jax.meeting import meet
from molo_jax.place import Place
from molo_jax.relay import free_port

FACTS = {"config": {"train": {"steps": 7}}, "code": "abc"}


@pytest.fixture
def come():
    """Lets processes, which are threads, meet; returns what each got, or its error."""
    port = free_port()

    def run(*places, facts=None):
        def process(place):
            try:
                return meet(place, (facts or {}).get(place.process, FACTS))
            except MoloError as error:
                return error

        with ThreadPoolExecutor(len(places)) as pool:
            return list(pool.map(process, places))

    run.port = port
    return run


def place(come, process, count=3, seconds=20):
    return Place("localhost", come.port, count, process, None, seconds)


def messages(errors, kind=MoloError):
    assert all(isinstance(error, kind) for error in errors), errors
    return [str(error) for error in errors]


def test_processes_find_each_other_and_agree_on_a_port(come):
    found = come(*(place(come, process) for process in (2, 0, 1)))
    links, ports = zip(*found, strict=True)
    assert [sorted(link.process for link in all_of) for all_of in links] == [[0], [1, 2], [0]]
    assert len(set(ports)) == 1
    assert ports[0] != come.port
    assert {link.host for all_of in links for link in all_of} == {socket.gethostname()}


def test_what_was_started_differently_is_named_in_all(come):
    other = {"config": {"train": {"steps": 8}, "seed": "x" * 300}, "code": "abc"}
    said = messages(come(*(place(come, p) for p in range(3)), facts={2: other}))
    expected = "config.train.steps is 7 in process 0 and 8 in process 2"
    assert [expected in line for line in said] == [True] * 3
    assert f'config.seed is absent in process 0 and "{"x" * 119}… in process 2' in said[0]


def test_two_processes_of_one_number_are_refused(come):
    errors = come(*(place(come, process) for process in (0, 1, 1)))
    expected = "two processes have --process_id=1, on .*; each needs its own number from 0 to 2"
    for error in errors:
        with pytest.raises(MoloError, match=expected):
            raise error
        assert error.exit_code == UsageError.exit_code


def test_another_number_of_processes_is_refused(come):
    errors = come(place(come, 0), place(come, 1, count=2))
    for line in messages(errors):
        assert "with --num_processes=2, and process 0 with --num_processes=3" in line


def test_who_does_not_come_in_time_is_named(come):
    errors = come(place(come, 0, seconds=1), place(come, 1, seconds=1))
    assert (
        messages(errors)
        == [
            f"process 2 did not come to localhost:{come.port} within 1 s (--start_seconds); see the"
            " output there"
        ]
        * 2
    )


def test_a_coordinator_that_is_not_there_ends_the_wait_with_what_to_look_at(come):
    began = time.monotonic()
    (line,) = messages(come(place(come, 1, seconds=1)))
    assert f"process 0 cannot be reached at localhost:{come.port} within 1 s" in line
    assert "Connection refused" in line
    assert time.monotonic() - began < 10


def test_a_port_in_use_is_said_with_the_remedy(come):
    with socket.create_server(("", come.port)):
        (error,) = come(place(come, 0))
    assert isinstance(error, UsageError)
    assert f"cannot listen on port {come.port} of this host (Address already in use)" in str(error)
    assert "give another port to all processes" in str(error)


def test_other_programs_at_the_port_change_nothing(come):
    def stranger():
        while True:
            try:
                with socket.create_connection(("localhost", come.port)) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    assert connection.recv(10) == b""
                    return
            except ConnectionRefusedError:
                time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stranger)
        with ThreadPoolExecutor(1) as first:
            links = first.submit(meet, place(come, 0, count=2), FACTS)
            asked.result(20)
            assert come(place(come, 1, count=2))[0][0][0].process == 0
            assert [link.process for link in links.result()[0]] == [1]


def test_the_port_of_another_program_is_recognized(come):
    with socket.create_server(("", come.port)) as other, ThreadPoolExecutor(1) as pool:

        def answer():
            connection, _ = other.accept()
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            return connection

        answered = pool.submit(answer)
        (line,) = messages(come(place(come, 1)))
        answered.result().close()
    assert f"localhost:{come.port} does not answer as process 0" in line


def test_a_process_that_ends_while_others_are_waited_for_ends_all(come, monkeypatch):
    monkeypatch.setattr(meeting, "_ANSWER_SECONDS", 1)

    def leave():
        time.sleep(0.3)
        link = meeting.Link(meeting._connection(place(come, 1), time.monotonic() + 20))
        link.send({"hello": {"process": 1, "count": 3, "host": "node1", "facts": {}}})
        link.connection.close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(leave)
        (line,) = messages(come(place(come, 0)))
    assert line == "process 1 (node1) ended while others were waited for; its output says why"
