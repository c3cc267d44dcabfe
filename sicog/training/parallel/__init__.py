"""One training on several processes.

kind      which kind: plain, ZeRO or FSDP
sharding  its settings, loading and saving
nodes     processes from torchrun's or SLURM's variables
reshard   `sicog reshard`: continue with another number of processes
"""
