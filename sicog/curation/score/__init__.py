"""Self-consistency of the candidates of a query.

self_consistency  the score: a pure function of embeddings
similarity        the sum over pairs that scores are made of
block             score a block of candidate sets: embeddings, and votes on final answers
score             `sicog score`
columns           scores as columns, without texts, for verdicts over a million rows
"""
