"""cli.py: help without torch, one sentence and exit code 2 for a user's mistake."""

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner
from warm_sicog import warm_sicog

from sicog import __version__, cli
from sicog.commands.verb_commands import resolve_config
from sicog.runs.verbs import VERBS, Panel


def sicog(*arguments, cwd=None, command=(sys.executable, "-m", "sicog")):
    command = [*command, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "none.yaml"), "none.yaml: no such config file"),
        (("train", "none.yaml"), "none.yaml: no such config file"),
        (("annotate", "task=captioning", "inptu=x"), "unknown key 'inptu' (did you mean 'input'?)"),
        (("select", "threshold"), "no such config file"),
        (("report", "nowhere"), "is not a folder. Give the folder of a run"),
        (("select", ".."), ".. is a folder, not a YAML file. The first word is a YAML of keys; did you mean input=..?"),
        (("group", ".."), "did you mean input=..?"),
        (("train", ".."), "The first word is a YAML of keys; `sicog train --help` shows an example"),
        (("run", ".."), ".. is a folder, not a YAML file"),
        (("status", ".."), ".. is not a run of a recipe: recipe.json, which `sicog run` writes, is missing."),
        (("status", ".."), "For any other folder use `sicog report ..`"),
        (("status", "nowhere"), "nowhere does not exist. Give the run_dir of a recipe"),
        (("mini-data",), "out_dir is missing"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, arguments, says):
    done = sicog(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_the_machine_refuses_is_one_sentence(tmp_path):
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
    code = "import sys, sicog.cli, sicog.runs.recipe, sicog.runs.verbs; assert 'torch' not in sys.modules\n"
    code += "for verb in sicog.runs.verbs.VERBS.values():\n"
    code += "    verb.config_type(); assert 'torch' not in sys.modules, verb.name"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_printed():
    done = CliRunner().invoke(cli.app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"sicog {__version__}\n")


def commands_in(group):
    for name, command in group.commands.items():
        yield name, command
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", found) for inner, found in commands_in(command))


def listed(width):
    """The names in each panel of `sicog --help`, as it is printed."""
    lines = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": str(width)}).output.splitlines()
    panels, title = {}, ""
    for line in lines:
        if begin := re.match(r"╭─ (.+?) ─+╮", line):
            title = begin[1]
        elif name := re.match(r"│ ([a-z]\S+)", line):
            panels.setdefault(title, []).append(name[1])
    return panels


def test_the_help_has_every_command_in_one_panel():
    group = typer.main.get_command(cli.app)
    shown = [name for name in group.list_commands(None) if not group.commands[name].hidden]
    assert sorted(group.list_commands(None)) == sorted(group.commands) and VERBS.keys() <= set(shown)
    assert all(group.commands[name].rich_help_panel in list(Panel) for name in shown)
    assert set(group.commands) - set(shown) == {"script-help"}
    panels = listed(100)
    assert list(panels) == [str(panel) for panel in Panel]
    assert [name for names in panels.values() for name in names] == shown
    assert panels[Panel.RUN] == ["run", "status", "report"] and "select" in panels[Panel.CURATE]
    assert {name for name in shown if name.startswith("mini-")} <= {*panels[Panel.MINI], *panels[Panel.STEPS]}


def test_a_line_of_the_help_is_one_sentence_that_fits():
    for name, command in commands_in(typer.main.get_command(cli.app)):
        first = " ".join(command.help.split("\n\n")[0].split())
        assert first.endswith((".", "?")) and first[0].isupper(), name
        assert len(first) < 70 and not re.search(r"[.?;] ", first), f"{name}: {first}"
    output = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "80"}).output
    assert sum(map(len, listed(80).values())) == len(re.findall(r"^│ [a-z]\S+ .*[.?] +│$", output, re.MULTILINE))


def test_nothing_of_the_help_is_swallowed_as_markup():
    group = typer.main.get_command(cli.app)
    for name, command in [("", group), *commands_in(group)]:
        texts = [command.help, *(getattr(p, "help", "") or "" for p in command.params)]
        assert not [text for text in texts if re.search(r"\[[a-zA-Z/#@]", text)], name


def test_help_has_an_example_and_all_keys_and_is_quick():
    begin = time.monotonic()
    done = sicog("select", "--help")
    assert done.returncode == 0 and time.monotonic() - begin < 30
    assert "sicog select input=data/scored threshold=0.85 out_dir=data/kept" in done.stdout
    said = " ".join(done.stdout.split())
    assert "out_dir (path, required) Folder to write." in said
    assert "min_candidates = 3 (integer, at least 2) Rows with fewer comparable candidates" in said
    assert "data.path" not in said


@pytest.mark.parametrize("command", ["report", "run", "data check", "lab run", "lab ceiling", "lab table"])
def test_help_of_other_commands_lists_the_keys_that_they_take(command):
    done = CliRunner().invoke(cli.app, [*command.split(), "--help"])
    assert done.exit_code == 0 and f"sicog {command}" in done.output
    key = {"report": "threshold_file", "run": "steps.NAME.run", "data check": "data.check_images"}
    assert key.get(command, "updates.sft") in done.output


@pytest.mark.parametrize("name", [*VERBS])
def test_the_example_of_a_verb_is_true(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    command = typer.main.get_command(cli.app).get_command(None, name)
    given = command.make_context(name, shlex.split(VERBS[name].example)).params
    if "config" in given:
        assert resolve_config(VERBS[name], given)
    for key in re.findall(r"(?:^| )\W?([\w.]+)=", VERBS[name].example):
        assert key.split(".")[0] in VERBS[name].config_type().model_fields


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("GLOBAL_BATCH=32", "export GLOBAL_BATCH=32, or write global_batch=32)"),
        ("FINETUNE_BATCH=2", "export FINETUNE_BATCH=2; `SCRIPT.sh --help` shows the key of each variable)"),
    ],
)
def test_a_scripts_variable_given_as_a_key_is_explained(override, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        resolve_config(VERBS["train"], {"config": override})


def test_the_first_word_may_be_rows_by_mistake(tmp_path):
    rows, broken = tmp_path / "rows.jsonl", tmp_path / "mine.yaml"
    rows.write_text('{"id": 1}\n{"id": 2}\n')
    broken.write_text("a: [")
    with pytest.raises(ValueError, match=r"did you mean input=.*rows\.jsonl\?"):
        resolve_config(VERBS["score"], {"config": str(rows)})
    with pytest.raises(ValueError, match=r"(?s)not valid YAML.*`sicog score --help` shows an example"):
        resolve_config(VERBS["score"], {"config": str(broken)})


@pytest.mark.parametrize(
    "arguments",
    [("ask", "nothere", "a.png", "Q?"), ("export-checkpoint", "nothere", "out"), ("data", "check", "a.json")],
)
def test_a_checkpoint_that_is_nowhere_is_said_without_asking_the_hub(tmp_path, arguments):
    (tmp_path / "a.json").write_text("[]")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    more = ("--checkpoint", "nothere") if arguments[0] == "data" else ()
    begin = time.monotonic()
    done = sicog(*arguments, *more, cwd=tmp_path, command=[warm_sicog()])
    assert done.returncode == 2 and "nothere does not exist" in " ".join(done.stderr.split())
    assert "Retrying" not in done.stderr and time.monotonic() - begin < 60


def test_a_setting_out_of_range_is_one_clear_sentence_without_an_address(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    done = sicog("ask", tmp_path, "a.png", "Q?", "--temperature", "-1", cwd=tmp_path, command=[warm_sicog()])
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "temperature: must be at least 0" in said
    assert "http" not in said and "Traceback" not in said


def test_ctrl_c_says_what_to_do_next(tmp_path):
    command = [sys.executable, "-m", "sicog.cli", "mini-data", "--out", tmp_path / "world", "unlabelled=9999"]

    def as_in_a_terminal():  # a shell's background jobs, and what they start, ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=as_in_a_terminal) as running:
        # The import of numpy.random, which comes before the first image, may swallow an interrupt.
        while not any((tmp_path / "world" / "images").rglob("*.png")):
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
        cli.report_mistakes(interrupted)
    assert (ended.value.code, capsys.readouterr().err) == (130, said)


def test_another_exit_code_stays_as_it_is(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.report_mistakes(lambda: sys.exit(75))
    assert (ended.value.code, capsys.readouterr().err) == (75, "")
