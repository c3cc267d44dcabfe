"""The lab: measure scorers, rows and shares of the data on a finished mini run.

arms             the arms of recipes/lab/arms.yaml as an ordinary recipe
train_arms       `sicog lab run`, `score --train`
results          figures of all arms and seeds, with intervals
pictures         their pictures
pick             `lab-pick`: the picks of a scorer as training rows
perfect          `lab-perfect`: rows with the truth, or with mistakes
scorers          scorers to compare, and the loader of a user's own
true_candidates  the candidates of a mini run with their truth
scorer_quality   how true a scorer's picks are
compare_scorers  `sicog lab score`
gap_proxy        `sicog lab gap`: the proxy of the gap against the gap
"""
