"""The command line; nothing of a command is imported before it is used.

Commands: verb_commands (one for every verb of the table), runs, generation, evaluation, look (at answers, images and
data), convert (checkpoints), lab. Beside them: help (panels and keys), script_help, arguments (checks).
"""
