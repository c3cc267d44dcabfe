"""threads.py: processes of one machine share its cores, and a user's own number stays."""

import os
import sys

import pytest

from sicog.stages import threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)


@pytest.fixture
def torch_threads(monkeypatch):
    """The numbers that torch was given."""
    given = []
    monkeypatch.setitem(sys.modules, "torch", type("torch", (), {"set_num_threads": given.append}))
    return given


@pytest.mark.parametrize(("processes", "wanted"), [(2, 4), (3, 2), (8, 1), (64, 1)])
def test_each_process_has_its_share(torch_threads, processes, wanted):
    threads.share_cores(processes)
    assert os.environ["OMP_NUM_THREADS"] == str(wanted) and torch_threads == [wanted]


def test_one_process_keeps_what_torch_would_take(torch_threads):
    threads.share_cores(1)
    assert "OMP_NUM_THREADS" not in os.environ and torch_threads == []


def test_a_number_of_the_user_stays(monkeypatch, torch_threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.share_cores(4)
    assert os.environ["OMP_NUM_THREADS"] == "3" and torch_threads == []


@pytest.mark.parametrize(("of_task", "wanted"), [("4", 4), ("64", 8), ("", 8)])
def test_a_slurm_task_has_the_cores_that_it_asked_for(monkeypatch, of_task, wanted):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", of_task)
    assert threads.cores() == wanted
    threads.share_cores(2)  # its workers share those
    assert os.environ["OMP_NUM_THREADS"] == str(wanted // 2)
