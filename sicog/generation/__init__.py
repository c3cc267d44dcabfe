"""Step 2, generate: several captions and answers for unlabelled images and questions."""
