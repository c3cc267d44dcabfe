"""The one client of OpenAI-compatible endpoints: hosted models, vLLM, SGLang."""
