"""Data steps over shards: the runner, its journals and manifests, and the machines that it runs on."""
