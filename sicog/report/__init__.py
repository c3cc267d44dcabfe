"""Write a self-contained HTML report of a run.

write            `sicog report`: the page, results.json and a table
discover         find the content of a folder, and report it
run_facts        rows and losses of the steps; `times` has their seconds
curated          scores, threshold and gain of self-consistency
style_mix        lengths and styles of the rows
cuts             the rows kept at each threshold
evaluations      base, next model and control side by side
benchmark_table  the table of `sicog results`
known_truth      the truth of unlabelled images, where it exists
lineage          facts of earlier steps, found by run.json
browser          the rows of the page's browser; `browser_rows` makes them
row_images       images of rows
page             numbers to HTML; `safe` escapes JSON
terminal         the results in the terminal
"""
