"""How many processes an environment would start, and with which commands."""

from __future__ import annotations

import pytest

from sicog.training.parallel.nodes import planned_nodes

ARGUMENTS = ["train", "my config.yaml", "out_dir=r"]


def test_one_process_without_a_word() -> None:
    nodes = planned_nodes({})
    assert nodes.world_size == 1
    assert nodes.commands(ARGUMENTS) == ["node 1 of 1, rank 0: sicog train 'my config.yaml' out_dir=r"]


def test_torchrun_on_two_nodes_by_rank() -> None:
    nodes = planned_nodes({"DISTRIBUTED_ARGS": "--nnodes=2 --nproc-per-node 8 --node_rank 1 --master_addr head"})
    assert nodes.world_size == 16
    first, second = nodes.commands(ARGUMENTS)
    torchrun = "torchrun --nnodes=2 --nproc_per_node=8 --master_addr head --node_rank="
    assert first == f"node 1 of 2, ranks 0 to 7: {torchrun}0 -m sicog train 'my config.yaml' out_dir=r"
    assert second == f"node 2 of 2, ranks 8 to 15: {torchrun}1 -m sicog train 'my config.yaml' out_dir=r"


def test_torchrun_that_counts_devices_itself_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="whole numbers, got 1 and gpu"):
        planned_nodes({"DISTRIBUTED_ARGS": "--nproc_per_node=gpu"})


def test_a_slurm_job_counts_its_tasks() -> None:
    job = {"SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS": "32"}
    nodes = planned_nodes({**job, "MASTER_ADDR": "node1", "DISTRIBUTED_ARGS": ""})
    assert (nodes.n_nodes, nodes.per_node) == (4, 8) and "srun" in nodes.commands(ARGUMENTS)[3]
    # A shell within a job, without slurm.sbatch, starts one process.
    assert planned_nodes(job).world_size == 1
