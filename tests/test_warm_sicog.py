"""The warm command of the tests behaves as the real one: exit codes, streams, folder, environment, signals."""

import os
import signal
import subprocess
import sys

import pytest
from warm_sicog import warm_python, warm_sicog

SCRIPT = """
import os, signal, sys, time
print(os.getcwd(), os.environ.get("WORD"), sys.argv[1:], sys.stdin.read(), __name__)
print("an error", file=sys.stderr)
if sys.argv[1:] == ["wait"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    print("waiting", flush=True)
    time.sleep(60)
if sys.argv[1:] == ["crash"]:
    raise RuntimeError("crashed")
sys.exit(3)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


def run(command, script, *words):
    options = {"cwd": script.parent, "capture_output": True, "text": True, "input": "typed"}
    return subprocess.run([command, script.name, *words], env={**os.environ, "WORD": "said"}, **options)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("two words", "x"), ("crash",)])
def test_it_does_what_python_does(script, words):
    expected, found = run(sys.executable, script, *words), run(warm_python(), script, *words)
    assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)
    assert found.stderr.splitlines()[-1] == expected.stderr.splitlines()[-1]
    assert str(script.parent) in found.stdout and "said" in found.stdout and "typed" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 7), (signal.SIGINT, 1)])
def test_signals_reach_the_command(script, number, code):
    child = subprocess.Popen([warm_python(), str(script), "wait"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    while child.stdout.readline() != b"waiting\n":
        assert child.poll() is None
    child.send_signal(number)
    assert child.wait(20) == code


@pytest.mark.slow
def test_a_mistake_is_said_as_by_the_real_command(tmp_path):
    for arguments in (["select", "none.yaml"], ["nothing"], ["--version"]):
        options = {"cwd": tmp_path, "capture_output": True, "text": True}
        expected = subprocess.run([sys.executable, "-m", "sicog.cli", *arguments], **options)
        found = subprocess.run([warm_sicog(), *arguments], **options)
        assert (found.returncode, found.stdout) == (expected.returncode, expected.stdout)
        said, real = found.stderr.replace("sicog.cli", ""), expected.stderr.replace("python -m sicog.cli", "sicog")
        assert real.split() == said.split()
