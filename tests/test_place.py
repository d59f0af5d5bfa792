import sys
import types

import pytest

from molo_jax.errors import UsageError
from molo_jax.place import Asked, Place, parse_address, place_of

CLUSTERS = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "KUBERNETES_", "TPU_", "MEGASCALE_", "JAX_COORD")
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "gpu[07,09-11]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith(CLUSTERS):
            monkeypatch.delenv(name)


def by_hand(**changes):
    flags = {"coordinator": "node1:12345", "num_processes": 4, "process_id": 3}
    return Asked(distributed=True, **{**flags, **changes})


def test_without_distributed_the_process_is_the_only_one():
    assert place_of(Asked()) is None


def test_the_three_flags_say_the_place():
    assert place_of(by_hand()) == Place("node1", 12345, 4, 3)
    assert place_of(by_hand(start_seconds=7)).start_seconds == 7


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(coordinator="a:1"), "--coordinator is given without --distributed"),
        (Asked(process_id=0), "--process_id is given without --distributed"),
        (
            by_hand(num_processes=None),
            "--num_processes must be given with --coordinator and --process_id",
        ),
        (
            by_hand(num_processes=None, process_id=None),
            "--num_processes and --process_id must be given with --coordinator",
        ),
        (by_hand(num_processes=0), "--num_processes=0; expected 1 or more"),
        (by_hand(process_id=4), "--process_id=4 with --num_processes=4; .* from 0 to 3"),
        (by_hand(process_id=-1), "--process_id=-1 with"),
        (Asked(distributed=True), "neither Slurm .* was found; give --coordinator=HOST:PORT"),
    ],
)
def test_flags_that_do_not_say_it_are_refused_with_what_is_missing(asked, said):
    with pytest.raises(UsageError, match=said):
        place_of(asked)


@pytest.mark.parametrize(
    "text", ["node1", "node1:", ":12", "node1:0", "node1:65536", "a:b:1", "::1"]
)
def test_what_is_no_address_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"expected HOST:PORT.*for example node1:12345"):
        parse_address(text)


def test_an_address_of_version_six_stands_in_brackets():
    assert parse_address("[fe80::1]:99") == ("fe80::1", 99)
    assert parse_address("10.0.0.1:99") == ("10.0.0.1", 99)


def test_slurm_says_the_place(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert place_of(Asked(distributed=True)) == Place("gpu07", 61441, 4, 2, (1,))


def test_open_mpi_says_the_place(monkeypatch):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "8192.0;tcp://10.0.0.7,10.1.0.7:34911")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0")
    assert place_of(Asked(distributed=True)) == Place("10.0.0.7", 61442, 3, 1, (0,))


def test_another_mpi_is_asked_by_mpi4py(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "77")
    local = types.SimpleNamespace(Get_rank=lambda: 0)
    world = types.SimpleNamespace(
        Get_rank=lambda: 1,
        Get_size=lambda: 2,
        bcast=lambda value, root: "node3:77",
        Split_type=lambda kind: local,
    )
    mpi = types.ModuleType("mpi4py")
    mpi.MPI = types.SimpleNamespace(COMM_WORLD=world, COMM_TYPE_SHARED=0)
    mpi.__spec__ = types.SimpleNamespace(loader=None)
    monkeypatch.setitem(sys.modules, "mpi4py", mpi)
    assert place_of(Asked(distributed=True)) == Place("node3", 77, 2, 1, (0,))


def test_a_cluster_that_cannot_be_asked_is_named_with_its_reason(monkeypatch):
    for name, value in {**SLURM, "SLURM_NTASKS": "many"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"does not say who process 0 is .*'many'.*--coordinator"):
        place_of(Asked(distributed=True))
