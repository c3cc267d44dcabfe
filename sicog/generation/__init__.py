"""Step 2, generate: sample several captions and answers for unlabelled images and questions.

sample          `sicog sample`: the step; `config` has its keys
engines/        engines that answer jobs
sampling        jobs, samples, and the random stream of a candidate
sampler         encode each image once, run each prompt once, fork it into candidates
prepare_ahead   read and encode the next images while the model decodes
room            how many sequences fit the memory of a GPU
decoding        decode many sequences together
slots           their key-value cache
recorded        on a GPU: steps as a CUDA graph, ends read one step late
choose          choose the next token from logits and noise
closer          ask about windows of an image
context         texts that the model reads before the prompt
corruption      image corruptions for rejected answers; `show_corruptions` draws them
group           `sicog group`
original_files  candidates in the original's files
ask             `sicog ask`
estimate        `sicog sample --estimate`
"""
