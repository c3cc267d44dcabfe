"""For maintainers: train the parts that the mini world ships.

mini_parts      `sicog mini-parts`: unpack the shipped parts, or train them
parts_config    its config
fit             the training loop
train_vision    train the vision tower; `probe_tower` measures it
parts_text      texts for the language model
train_language  train the language model; `measure_language` measures it
"""
