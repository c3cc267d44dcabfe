"""Step 2, generate: sample several captions and answers for unlabelled images and questions."""
