"""cli.py: help without torch, one sentence and exit code 2 for a user's mistake."""

import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from sicog import cli


def sicog(*arguments, cwd=None):
    command = [sys.executable, "-m", "sicog", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "none.yaml"), "none.yaml: no such config file"),
        (("train", "none.yaml"), "none.yaml: no such config file"),
        (("annotate", "task=captioning", "inptu=x"), "unknown key 'inptu' (did you mean 'input'?)"),
        (("select", "threshold"), "no such config file"),
        (("report", "nowhere"), "is no folder; name a run's folder"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, arguments, says):
    done = sicog(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_the_machine_refuses_is_one_sentence(tmp_path):  # R11
    (tmp_path / "file").write_text("")
    (tmp_path / "r.yaml").write_text("run_dir: file/run\nsteps: {a: {run: mini-data, config: {seed: 1}}}")
    done = sicog("run", "r.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Not a directory" in " ".join(done.stderr.split()) and "file" in done.stderr


def test_mini_data_and_dry_run(tmp_path):
    counts = ["align=2", "sft=2", "warmup_captions=2", "warmup_reasoning=2", "unlabelled=2", "dev=2", "test=2"]
    planned = sicog("mini-data", "--out", tmp_path / "world", "--seed", 5, "--dry-run", *counts)
    assert "seed: 5" in planned.stdout and not (tmp_path / "world").exists()
    done = sicog("mini-data", "--out", tmp_path / "world", "--seed", 5, *counts)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "world" / "manifest.json").is_file()
    refused = sicog("mini-data", "--out", tmp_path / "world", "--seed", 6, *counts)
    assert refused.returncode == 2 and "seed was 5, now 6" in refused.stderr.replace("\n", " ")


def test_help_and_plans_need_no_torch():
    code = "import sys, sicog.cli, sicog.recipe; assert 'torch' not in sys.modules"
    for verb in ("sicog.cli", "sicog.training.config", "sicog.generation.sample", "sicog.curation.score"):
        code += f"; import {verb}; assert 'torch' not in sys.modules, {verb!r}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "arguments",
    [("ask", "nothere", "a.png", "Q?"), ("export-checkpoint", "nothere", "out"), ("data", "check", "a.json")],
)
def test_a_checkpoint_that_is_nowhere_is_said_without_asking_the_hub(tmp_path, arguments):
    (tmp_path / "a.json").write_text("[]")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    more = ("--checkpoint", "nothere") if arguments[0] == "data" else ()
    begin = time.monotonic()
    done = sicog(*arguments, *more, cwd=tmp_path)
    assert done.returncode == 2 and "nothere does not exist" in " ".join(done.stderr.split())
    assert "Retrying" not in done.stderr and time.monotonic() - begin < 60


def test_a_setting_out_of_range_is_a_sentence_without_an_address(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    done = sicog("ask", tmp_path, "a.png", "Q?", "--temperature", "-1", cwd=tmp_path)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "temperature: Input should be greater than or equal to 0" in said
    assert "http" not in said and "Traceback" not in said


def test_ctrl_c_says_what_to_do_next(tmp_path):
    command = [sys.executable, "-m", "sicog.cli", "mini-data", "--out", tmp_path / "world", "unlabelled=9999"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        while not (tmp_path / "world" / "images").exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        said = running.communicate()[1]
    assert (running.returncode, said) == (130, "sicog: stopped; run the same command again to resume\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sample", "sicog: stopped; run the same command again to resume\n"),
        ("run", "sicog: stopped; run the same command again to resume\n"),
        ("ask", "sicog: stopped\n"),
    ],
)
def test_ctrl_c_promises_to_resume_only_what_writes_to_a_folder(monkeypatch, capsys, command, said):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["sicog", command])
    with pytest.raises(SystemExit) as ended:
        cli._guarded(interrupted)
    assert (ended.value.code, capsys.readouterr().err) == (130, said)


def test_another_exit_code_stays_as_it_is(capsys):
    with pytest.raises(SystemExit) as ended:
        cli._guarded(lambda: sys.exit(75))
    assert (ended.value.code, capsys.readouterr().err) == (75, "")
