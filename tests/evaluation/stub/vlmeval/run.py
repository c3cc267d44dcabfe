"""The kit's run.py as far as its protocol goes: predictions found are reused, errors are noted, the exit code is 0."""

import argparse
import json
from pathlib import Path

import vlmeval.dataset as kit
from vlmeval.config import supported_VLM


def main():
    """Infer and evaluate each data set in turn."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--data"):
        parser.add_argument(name, nargs="+")
    for name in ("--work-dir", "--mode", "--judge", "--judge-base-url", "--limit"):
        parser.add_argument(name)
    args = parser.parse_args()
    name, model = args.model[0], None
    folder = Path(args.work_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    status = {"model_name": name, "datasets": {}}
    for data_name in args.data:
        entry = status["datasets"].setdefault(data_name, {"judge_model": args.judge})
        try:
            data_set = kit.build_dataset(data_name)
            if args.limit:
                data_set.data = data_set.data.iloc[: int(args.limit)]
            file = folder / f"{name}_{data_name}.xlsx"
            if not file.is_file():
                model = model or supported_VLM[name]()
                predict(model, data_set, file)
            if args.mode == "infer":
                entry["skip_reason"] = "mode_infer"
            else:
                entry["metrics"] = data_set.evaluate(str(file), model=args.judge)
        except Exception as error:
            entry["error_message"] = str(error)
    (folder / "status.json").write_text(json.dumps(status))


def predict(model, data_set, file):
    """One row after another."""
    model.set_dump_image(data_set.dump_image)
    answers = []
    for i in range(len(data_set.data)):
        line = data_set.data.iloc[i]
        custom = model.use_custom_prompt(data_set.dataset_name)
        message = model.build_prompt(line, dataset=data_set.dataset_name) if custom else data_set.build_prompt(line)
        answers.append(model.generate(message=message, dataset=data_set.dataset_name))
    data = data_set.data.assign(prediction=answers)
    data.drop(columns="image", errors="ignore").to_excel(file, index=False)


if __name__ == "__main__":
    main()
