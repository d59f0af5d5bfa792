"""The watch alone, in processes without JAX, so that they start at once."""

import signal
import time

import processes

# Each of three processes watches, says so, and does what its second line says.
WORK = """
    import os, sys, time
    from molo_jax import watch
    from molo_jax.console import show_error
    from molo_jax.meeting import meet
    from molo_jax.place import Place
    from molo_jax.watch import Watch

    process, count, port = map(int, sys.argv[1:4])
    watch.ALIVE_EVERY, watch.SILENCE = 0.1, float(sys.argv[4])
    watch.TIME_TO_WRITE = watch._TIME_TO_LEAVE = 1.0
    links, _ = meet(Place("localhost", port, count, process), {})
    with watch.watching(Watch(process, links)):
        print("up", flush=True)
        WHAT
"""
HANG = "time.sleep(100)"
# A failing process that does not come to its end by itself, and the seconds it has for that.
FAIL = f"""
        if process == PROCESS:
            watch.current().fail("the disk is full", 3, lambda: show_error("full here"))
        {HANG}
"""


def started(what, silence=30.0):
    started = processes.Processes(WORK.replace("WHAT", what.strip()), 3, silence)
    for process in range(3):
        started.await_line(process, "up")
    return started


def errors(ended, *which):
    return [ended[process].errors for process in which]


def test_a_killed_process_ends_the_others_at_once_with_its_name():
    with started(HANG) as all_of:
        all_of.send(1, signal.SIGKILL)
        ended = all_of.ended()
    assert [process.code for process in ended] == [1, -9, 1]
    for line in errors(ended, 0, 2):
        assert line.startswith("error: process 1 (")
        assert line.endswith(
            ") is lost: its connection was closed, so it was killed or has crashed; the same"
            " command goes on from the last checkpoint, if there is one\n"
        )
    assert max(process.seconds for process in ended) < 20


def test_a_killed_process_0_ends_the_others_too():
    with started(HANG) as all_of:
        all_of.send(0, signal.SIGKILL)
        ended = all_of.ended()
    assert [process.code for process in ended] == [-9, 1, 1]
    for line in errors(ended, 1, 2):
        assert line.startswith("error: process 0 (")
        assert ") is lost: its connection was closed" in line


def test_a_process_that_says_nothing_any_more_is_lost_after_the_stated_time():
    with started(HANG, silence=3.0) as all_of:
        all_of.send(2, signal.SIGSTOP)
        time.sleep(0.5)
        all_of.send(2, signal.SIGCONT)
        time.sleep(3.0)
        # Half a second was no reason.
        all_of.send(2, signal.SIGSTOP)
        began = time.monotonic()
        while all_of.alive(0) or all_of.alive(1):
            time.sleep(0.02)
            assert time.monotonic() - began < 30
        assert time.monotonic() - began > 2.5
        all_of.send(2, signal.SIGKILL)
        ended = all_of.ended()
    assert [process.code for process in ended] == [1, 1, -9]
    for line in errors(ended, 0, 1):
        assert line.startswith("error: process 2 (")
        assert ") is lost: nothing was heard of it for 3 s" in line


def test_processes_that_were_all_suspended_go_on():
    with started("time.sleep(6)\n        watch.current().finish()", silence=2.0) as all_of:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in range(3):
                all_of.send(process, number)
            time.sleep(3)
        ended = all_of.ended()
    assert [(process.code, process.errors) for process in ended] == [(0, "")] * 3


def test_a_failure_is_told_to_all_with_its_exit_code_and_the_process():
    for process in (0, 2):
        with started(FAIL.replace("PROCESS", str(process))) as all_of:
            ended = all_of.ended()
        assert [process.code for process in ended] == [3, 3, 3]
        lines = errors(ended, 0, 1, 2)
        assert lines.pop(process) == "error: full here\n"
        for line in lines:
            assert line.startswith(f"error: process {process} (")
            assert line.endswith(") ended with: the disk is full\n")


def test_what_is_being_written_has_its_time_when_another_process_fails(tmp_path):
    asked = tmp_path / "asked"
    unfinished = f"""
        places = ["{tmp_path}/0", "{tmp_path}/2"]
        if process == 1:
            # The others are at work.
            while not all(map(os.path.exists, places)):
                time.sleep(0.02)
            watch.current().fail("no room", 1, lambda: show_error("here"))
            os._exit(1)

        def unfinished():
            with open("{asked}", "a") as file:
                print(process, time.monotonic(), file=file)
            return process == 2

        with watch.current().waiting_for(unfinished):
            open(f"{tmp_path}/{{process}}", "w").close()
            time.sleep(100)
"""
    with started(unfinished) as all_of:
        ended = all_of.ended()
    assert [process.code for process in ended] == [1, 1, 1]
    lines = [line.split() for line in asked.read_text().splitlines()]
    # Process 0 writes nothing, and is asked once; process 2 is never done, and has one second.
    assert [process for process, _ in lines].count("0") == 1
    times = [float(at) for process, at in lines if process == "2"]
    assert times[-1] - times[0] > 0.5
    assert ended[2].seconds < 20


def test_processes_that_fail_alike_say_each_their_own_error():
    alike = """
        watch.current().fail("NaN", 1, lambda: show_error("own words"))
        show_error("own words")
        os._exit(1)
"""
    with started(alike) as all_of:
        ended = all_of.ended()
    assert {process.code for process in ended} == {1}
    for process in ended:
        assert process.errors == "error: own words\n" or process.errors.endswith("with: NaN\n")


def test_nobody_leaves_before_the_last_has_done_its_work():
    late = """
        time.sleep(1.0 * (process == 2))
        print(f"done {time.time()}", flush=True)
        watch.current().finish()
        print(f"left {time.time()}", flush=True)
"""
    with started(late) as all_of:
        ended = all_of.ended()
    assert [(process.code, process.errors) for process in ended] == [(0, "")] * 3
    said = [process.output.splitlines()[1:] for process in ended]
    times = [[float(line.split()[1]) for line in lines] for lines in said]
    assert min(left for _, left in times) >= max(done for done, _ in times)
