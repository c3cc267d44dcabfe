"""Find near-duplicates, and rows that overlap with benchmarks.

overlap     `sicog overlap`
examine     decide which rows to leave out, and why
benchmarks  benchmarks as hashes of images and of runs of words
marks       comparison keys of rows, about 50 bytes per row
image_pass  read every image once: its SHA-256 and its hash
image_hash  a perceptual hash of 256 bits
minhash     find nearly equal texts
clusters    union-find over pairs and equal keys
"""
