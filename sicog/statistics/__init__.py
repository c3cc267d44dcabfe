"""Intervals and paired tests, one copy for report, promotion, lab and evaluation."""
