"""Client of OpenAI-compatible endpoints: hosted models, vLLM, SGLang.

config       the config of an endpoint: model, limits, prices, budget
client       ask the endpoint, within limits and budget, with retries
limits       requests and tokens by the minute
budget       the money spent and reserved
retry        the wait before the next attempt
store        answers on disk, by the content of the request
image_parts  images as requests carry them
embeddings   vectors of texts
"""
