"""Users' rows: recognise files, read their rows, and store them as mapped tables.

file_kinds  recognise the kind of a file or folder
row_kinds   recognise the purpose of its rows
sources     stream the rows of a source
users_rows  rows for steps that make records of them
table       rows as a memory-mapped Arrow table
tar_files   read files in tar archives in place
cache       derived data: built once, shared by all
"""
