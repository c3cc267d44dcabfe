"""What answers jobs: our sampler, beam search, a served model."""
