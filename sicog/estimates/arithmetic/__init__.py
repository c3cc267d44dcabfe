"""FLOPs, bytes and times, computed from shapes and data sheets.

assumed   the assumptions of all estimates
devices   data sheets of devices
flops     FLOPs of a row
memory    memory of a training
readable  numbers formatted for people
"""
