"""SLURM arrays with stand-ins on PATH that run the real tasks: the bytes are the same, a relaunch does the rest."""

import os
from pathlib import Path

import pytest
from slurm_stand_in import install
from stages import test_runner
from warm_sicog import warm_python

from sicog.config import load_config
from sicog.generation.config import SampleConfig
from sicog.records import Example
from sicog.stages.launch import LaunchConfig, gpus
from sicog.stages.storage import read_records

pytest.importorskip("datatrove")
SLURM = LaunchConfig(on="slurm", tasks=2, options={"account": "mine"})


class Once:
    """Notes the blocks it sees; the first process that comes to row 40 dies there as of a lack of memory."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, block):
        with (self.folder / "seen").open("a") as file:
            file.write(f"{os.getpid()} {block[0].id}\n")
        if block[0].id == "40" and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os._exit(9)
        return list(test_runner.process(block))


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """PATH with the stand-ins, and these tests importable by what they start; gives the exit codes of jobs so far."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(warm_python().parent), install(tmp_path / "slurm")]))
    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), tests]))
    return lambda: [int(p.read_text()) for p in sorted((tmp_path / "slurm").glob("job-*"))]


@pytest.mark.slow
def test_an_array_gives_the_same_bytes_and_a_relaunch_does_what_is_missing(tmp_path, slurm):
    test_runner.prepare(tmp_path)
    with pytest.raises(ValueError, match="job 2 ended and .* is not finished; see the tasks' output"):
        test_runner.run(tmp_path, process=Once(tmp_path), launch=SLURM.model_copy(update={"wait": True}))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="has not finished"):  # what a step meets that does not wait
        list(read_records(out, Example))
    assert slurm() == [9, 1] and not (out / "manifest.json").exists()  # the finish waits for all tasks of the array
    script = (tmp_path / "slurm" / "script-1.sh").read_text()
    assert "--array=0-1" in script and "--account=mine" in script and "--gpus=1" in script
    assert "--mem=32G" in script and "--mem-per-cpu" not in script
    first = {line.split()[1] for line in (tmp_path / "seen").read_text().splitlines()}
    (tmp_path / "seen").unlink()
    test_runner.run(tmp_path, process=Once(tmp_path), launch=SLURM.model_copy(update={"wait": True}))
    assert slurm() == [9, 1, 0, 0] and (out / "manifest.json").is_file()
    again = [line.split()[1] for line in (tmp_path / "seen").read_text().splitlines()]
    # Shards 2 and 3 were done, shard 1 died in its second block: its first is not done again.
    assert first == {"0", "8", "16", "24", "32", "40", "64", "72", "80", "88", "96"} and again == ["40", "48", "56"]
    assert test_runner.files(out) == test_runner.files(test_runner.run(tmp_path, "here"))
    test_runner.run(tmp_path, process=None, launch=SLURM)  # finished: nothing is submitted
    assert len(slurm()) == 4


def test_waiting_looks_until_the_folder_is_finished(tmp_path, monkeypatch):
    cluster = pytest.importorskip("sicog.stages.cluster")
    looks = []

    def queued(job_id):
        looks.append(job_id)
        if len(looks) == 3:  # the job writes it and leaves the queue
            (tmp_path / "manifest.json").write_text("{}")
        return len(looks) < 3

    monkeypatch.setattr(cluster, "_is_queued", queued)
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 0)
    cluster._wait_for("7", tmp_path)
    assert looks == ["7"] * 3


@pytest.mark.parametrize(
    ("says", "queued"),
    [
        ("echo '7 gpu sample me R 0:01 1 node'", True),
        ("exit 0", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", True),
    ],
)
def test_a_job_is_gone_only_when_slurm_says_so(tmp_path, monkeypatch, says, queued):
    from sicog.stages.cluster import _is_queued

    (tmp_path / "squeue").write_text(f"#!/bin/bash\n{says}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert _is_queued("7") is queued


def test_the_users_choice_of_gpus_is_divided_among_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert gpus() == ["3", "5"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/bash\nprintf 'GPU-a\\nGPU-b\\n'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpus() == ["GPU-a", "GPU-b"]


def test_ray_takes_our_arguments(tmp_path):
    """Ray itself is not among the tests' packages; the executor is made of what we give it."""
    from sicog.stages.cluster import _ray

    test_runner.prepare(tmp_path)
    executor = _ray(LaunchConfig(on="ray", tasks=3, gpus=2, cpus=8, memory_gb=30), None, 4, tmp_path / "logs")
    assert (executor.world_size, executor.workers, executor.gpus_per_task) == (4, 3, 2)
    assert executor.mem_per_cpu_gb * executor.cpus_per_task == 30


@pytest.mark.parametrize(
    ("launch", "asked"),
    [
        ({"memory_gb": 30, "cpus": 8}, {"mem": "30G"}),
        ({"cpus": 2}, {"mem": "8G"}),  # 4 for each core
        ({"memory_gb": 30, "options": {"mem": "0"}}, {"mem": "0"}),
        ({"memory_gb": 30, "options": {"mem-per-cpu": "2G"}}, {"mem-per-cpu": "2G"}),
        ({"options": {"mem-per-gpu": "60G"}}, {"mem-per-gpu": "60G"}),
    ],
)
def test_memory_is_that_of_a_task_on_its_node(tmp_path, launch, asked):
    """sbatch refuses a job that names memory twice."""
    from sicog.stages.cluster import _slurm

    config = LaunchConfig(on="slurm", **launch)
    executor = _slurm(config, [], tmp_path / "logs", job_name="x", tasks=4, sbatch_args=config.options)
    options = executor.get_sbatch_args()
    assert {name: value for name, value in options.items() if name.startswith("mem")} == asked
    assert options["cpus-per-task"] == config.cpus


def test_the_launch_is_given_on_the_command_line_and_is_not_part_of_the_run():
    values = ["checkpoint=c", "input=i", "out_dir=o", "task=captioning"]
    here = load_config(SampleConfig, None, values)
    there = load_config(SampleConfig, None, [*values, "launch.on=slurm", "launch.tasks=4", "launch.partition=a"])
    assert there.launch.tasks == 4 and there.identity() == here.identity()
