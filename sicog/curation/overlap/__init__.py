"""Near-duplicates, and rows that overlap with benchmarks.

overlap     `sicog overlap`
examine     decide which rows to leave out, and why
benchmarks  benchmarks as hashes of images and of runs of words
marks       the values by which rows are compared, some 50 bytes a row
image_pass  read every image once: its SHA-256 and its hash
image_hash  a perceptual hash of 256 bits
minhash     find nearly equal texts
clusters    pairs and equal keys to clusters
"""
