"""Accuracy against the number of samples.

suites          `sicog eval CHECKPOINT --samples K`
accuracy        `sicog eval-samples`
select_samples  the score of the sample that is selected among K
answer_scores   scores of open answers
picture         the picture of the curves
"""
