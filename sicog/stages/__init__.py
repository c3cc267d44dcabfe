"""Data steps over shards: the runner, its journals and manifests, and the machines that it runs on.

runner      run a stage: rows in, records out, a manifest
config      the keys that stages share, and the options of the runner
reader      the rows of a source, by number
shard       one shard: blocks, drops, the finish
workers     several processes of this machine; `threads` shares its cores among them
journal     the finished blocks of a shard; `journal_progress` shows the rows done by all processes
storage     datasets on disk; atomic writes
provenance  run.json: step, config, versions, digests
launch      where the shards are processed; `backends` and `cluster` start them elsewhere
candidates  candidate sets of several runs, grouped by id
scratch     a table in a temporary file
"""
