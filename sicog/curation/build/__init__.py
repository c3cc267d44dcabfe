"""Kept rows to training sets.

build   `sicog build`: the set of stage 1.5
draw    which rows of which sources, in seeded order, under unique ids
origin  where each row comes from, and which chains become conversations
pair    `sicog pair`: preference pairs of answers to clean and corrupted images
"""
