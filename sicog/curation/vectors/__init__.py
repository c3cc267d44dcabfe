"""Embeddings of texts: encoders, and vectors on disk.

encoders        the config of an encoder, and the settings of known ones
find_encoder    where the files of an encoder are
local_encoder   encodes texts on this machine
served_encoder  encodes texts at an endpoint
vector_cache    the cache of vectors on disk, by text
embed           the plan of a run: finds its texts and embeds each once
vector_files    converts users' files of vectors into the cache's format
prepare         gives scoring a vector for every text
"""
