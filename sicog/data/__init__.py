"""Turn records into batches."""
