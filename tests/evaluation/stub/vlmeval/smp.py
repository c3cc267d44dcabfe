"""Files."""


def dump(data, path):
    """Write a data frame or a dictionary."""
    if path.endswith(".xlsx"):
        data.to_excel(path, index=False)
    else:
        import json
        from pathlib import Path

        Path(path).write_text(json.dumps(data))


def get_intermediate_file_path(eval_file, suffix, target_format="xlsx"):
    """A name beside the predictions."""
    return eval_file.replace(".xlsx", f"{suffix}.{target_format}")
