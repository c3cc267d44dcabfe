"""Step 1, develop: rewrite a few captions and answers as chains.

revise    `sicog annotate`: annotated rows to warm-up examples
teacher   a teacher writes captions as chains, while it sees the image
estimate  rows, tokens, money and hours, before the teacher is asked
"""
