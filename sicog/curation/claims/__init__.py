"""Self-consistency of claims: extract the claims of candidates, count their support, keep supported ones.

extract        `sicog claims`: read the claims of all candidates and count their support
readers        the readers: sentences, answers, a grammar
sentences      split texts into sentences
entailment     an NLI cross-encoder that decides whether a text states a sentence
served_reader  a served model that reads and checks claims
support        count support: pure functions
settle         `sicog settle`: write one text from the supported claims of a row
verify         `sicog ask-claims`, `check-claims`: check claims by questions to a model
"""
