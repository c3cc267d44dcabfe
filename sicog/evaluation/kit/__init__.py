"""VLMEvalKit, run from outside.

evaluate         `sicog eval CHECKPOINT --suite NAME`
interpreter      the Python of the kit's environment
process          the process in which the kit runs; `operators` lets it import torchvision
adapter          the kit's interface to our model
local_tables     local tables as data sets of the kit
question_tables  tables as queries, for sampling
work_folder      the work folder of a checkpoint
result_files     read the kit's results without the kit
"""
