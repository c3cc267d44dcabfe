"""The mini world: small rendered images with exact truth, and a model small enough for a CPU.

scene            scenes, sampled from a seed; `cells` maps things to a grid
render           scenes as images
text             captions and descriptions
questions        questions with true answers; `reasoning` writes their chains
mistakes         scenes and answers with mistakes, at a given rate
grammar          texts as claims
write_world      the data set on disk
truth            the truth on disk, and how a text compares to it
steps            the mini world's steps of a recipe
annotate         the annotation step, with the local teacher of `teacher_server`
measure_model    evaluate a checkpoint by the truth
tsv              the world as tables of VLMEvalKit
tokenizer        the tokenizer of the mini language model
parts_training/  for maintainers: train the shipped parts
"""
