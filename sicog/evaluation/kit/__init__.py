"""VLMEvalKit, run from outside."""
