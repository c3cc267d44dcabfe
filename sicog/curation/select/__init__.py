"""Keep the best candidate of a query, or drop the query.

verdicts         the one rule of selection: which candidate is chosen, and why a row is dropped
threshold        thresholds, stated as scores and compared as agreement
select           `sicog select`
sweep            finds a threshold on a split whose truth is known
threshold_table  `sicog thresholds`: what each threshold would keep
"""
