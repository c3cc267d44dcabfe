"""Models by name."""

supported_VLM = {}  # noqa: N816 - the kit's name
