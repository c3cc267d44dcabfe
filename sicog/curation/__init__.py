"""Step 3, curate: self-consistency keeps the best candidate or drops the row.

score/         self-consistency of the candidates of a row
claims/        self-consistency of statements
select/        keep the best candidate, or drop the row
build/         kept rows to training sets
overlap/       near-duplicates, and overlap with benchmarks
vectors/       sentence encoders and their vectors
curate         `sicog curate`: score and select in one command
numbered_rows  the rows of a dataset or of a user's file, read by number
words          texts as words, and hashes of runs of words
"""
