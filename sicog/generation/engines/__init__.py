"""Engines that answer jobs: our sampler, beam search, a served model.

engine  the interface `Engine` and its loader
beams   beam search by Transformers' `generate`
openai  a served model behind an OpenAI-compatible endpoint
"""
