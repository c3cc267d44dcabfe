"""Records to batches: find rows, measure them, plan updates, collate.

rows/         users' files, and rows as mapped tables
config        the config of training data
amounts       the one grammar of mixing
mixture       the rows of a mixture; `selection` is its result
mix           `sicog mix`
image_folder  find images in folders, tars and tables; `images` finds one on disk
measure       measure the lengths of all rows, in parallel
mixture_rows  the usable rows of a mixture, with their lengths
check         `sicog data check`; `check_kinds` checks rows that are no training rows
dataset       encoded rows by number
pairs         preference pairs as batches; `preferences` reads users' pairs
noise         noise for training images
batching      which rows form each update; `packing` packs them
collator      encoded rows to one batch
"""
