"""Whole runs: recipes, their steps and rounds, launchers, status and gates.

verbs       the commands that a step can run, each with its typed config
recipe      read a recipe into typed steps
config      config of a recipe besides its steps
rounds      rounds as ordinary steps, and the values of ${...}
states      the state of every step on disk
run         `sicog run`: the steps in order
execute     one step in this process
launchers/  steps side by side, by torchrun, as SLURM jobs
status      `sicog status`
gap         the gate `gap`: is there something to learn?
alarms      the gate `alarms`: signs of a poor round
promote     the gate `promote`: does the next model replace the last one?
"""
