"""Step 1, develop: a few captions and answers rewritten as chains."""
