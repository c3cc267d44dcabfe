"""Ways to start the steps of a run.

side_by_side  several steps at once on this machine
torchrun      a training as several processes
slurm         every step as a job of SLURM
"""
