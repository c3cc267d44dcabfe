"""Evaluation of a checkpoint.

kit/       VLMEvalKit, run from outside
sampled/   accuracy against the number of samples
config     the config of `sicog eval`
suite      a suite: the benchmarks to run
forms      how each form of question is asked
families   how each family of benchmarks is scored
answering  answer prompts with one of our checkpoints
summarize  `sicog results`: several checkpoints in one table
names      names of checkpoints in tables
"""
