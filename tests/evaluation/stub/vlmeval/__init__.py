"""A stand-in of VLMEvalKit: the names and the protocol that the adapter meets, in as few lines as can be."""
