"""Intervals, paired tests and plots, one copy for report, promotion, lab and evaluation.

intervals  95 % intervals of shares, means and paired differences
bootstrap  intervals of benchmarks by bootstrap, and a paired test
plots      plots as inline SVG
panels     plots beside each other, as an SVG file
"""
