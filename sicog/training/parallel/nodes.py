"""Find the processes of a training: from torchrun's or SLURM's variables, or DISTRIBUTED_ARGS before the start."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Nodes:
    """Nodes with equal numbers of processes. launcher: the start of the command for node 0, 1 ..."""

    n_nodes: int
    per_node: int
    launchers: tuple[str, ...]

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.n_nodes * self.per_node

    def commands(self, arguments: Sequence[str]) -> list[str]:
        """The command of each node, for these arguments of `sicog`."""
        lines = []
        for node, launcher in enumerate(self.launchers):
            first, last = node * self.per_node, (node + 1) * self.per_node - 1
            ranks = f"rank {first}" if first == last else f"ranks {first} to {last}"
            lines.append(f"node {node + 1} of {self.n_nodes}, {ranks}: {launcher} {shlex.join(arguments)}")
        return lines


def planned_nodes(environment: Mapping[str, str]) -> Nodes:
    """The processes that the environment would start. Raises `ValueError` if DISTRIBUTED_ARGS has no numbers."""
    slurm = [environment.get(name, "") for name in ("SLURM_JOB_NUM_NODES", "SLURM_NTASKS", "MASTER_ADDR")]
    if all(slurm):  # inside slurm.sbatch
        nodes, tasks = int(slurm[0]), int(slurm[1])
        return Nodes(nodes, tasks // nodes, ("srun sicog",) * nodes)
    if arguments := environment.get("DISTRIBUTED_ARGS", ""):
        return _of_torchrun(arguments)
    return Nodes(1, 1, ("sicog",))


def _of_torchrun(text: str) -> Nodes:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--nnodes", default="1")
    parser.add_argument("--nproc_per_node", "--nproc-per-node", default="1")
    parser.add_argument("--node_rank", "--node-rank", default=None)
    given, others = parser.parse_known_args(shlex.split(text))
    counts = (given.nnodes, given.nproc_per_node)
    if not all(count.isdigit() and int(count) > 0 for count in counts):
        raise ValueError(
            f"DISTRIBUTED_ARGS {text!r}: a plan needs --nnodes and --nproc_per_node as whole numbers, got "
            f"{' and '.join(counts)}"
        )
    n_nodes, per_node = map(int, counts)
    shared = ["torchrun", f"--nnodes={n_nodes}", f"--nproc_per_node={per_node}", *others]
    ranks = [[f"--node_rank={node}"] if given.node_rank is not None else [] for node in range(n_nodes)]
    return Nodes(n_nodes, per_node, tuple(shlex.join([*shared, *rank, "-m", "sicog"]) for rank in ranks))
