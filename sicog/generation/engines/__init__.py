"""Engines that answer jobs: our sampler, beam search, a served model."""
