"""Plans of runs before they start: memory, time and disk, and the reasons to refuse a start.

arithmetic    figures from shapes and data sheets
shapes        shapes of models, read without weights
resources     memory, FLOPs and disk of a training, for both kinds of plan
training      `sicog train --dry-run`
preflight     the reasons to refuse one command
counts        numbers of rows in the steps of a recipe
costs         the cost of a recipe's step
refusals      the reasons to refuse a recipe
recipes       `sicog run --dry-run`
flops_tables  the tables of `sicog flops`
commands      the command `sicog flops`
"""
