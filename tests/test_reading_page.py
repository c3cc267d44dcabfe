"""docs/reading.md: the files of the route exist and are about as long as it says, and so is the whole of it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reading.md").read_text()
ROUTE = [(name, int(lines)) for name, lines in re.findall(r"^\| `(sicog/\S+)` \| (\d+) \|", PAGE, re.MULTILINE)]


def n_lines(name: str) -> int:
    return len((ROOT / name).read_text().splitlines())


def test_the_files_of_the_route_are_as_long_as_the_page_says():
    wrong = [(name, told, n) for name, told in ROUTE if abs((n := n_lines(name)) - told) > max(20, told // 8)]
    assert not wrong, wrong


def test_the_route_can_be_read_in_an_afternoon():
    assert 18 <= len(ROUTE) <= 22
    (total,) = re.findall(r"some ([\d,]+) lines", PAGE)
    assert abs(sum(n_lines(name) for name, _ in ROUTE) - int(total.replace(",", ""))) < 200


def test_everything_that_the_page_names_exists():
    for name in re.findall(r"`((?:sicog|tests|recipes|training_scripts)/[\w./-]+)`", PAGE):
        assert (ROOT / name).exists(), name
    for name, module in re.findall(r"`(\w+)` in `(sicog/\S+\.py)`", PAGE):
        assert re.search(rf"^(?:def |class )?{name}\b", (ROOT / module).read_text(), re.MULTILINE), name


def test_every_step_of_the_method_names_files_that_exist():
    steps = re.split(r"^## ", (ROOT / "docs" / "method.md").read_text(), flags=re.MULTILINE)
    for step in steps[1:]:
        names = re.findall(r"`((?:sicog|training_scripts)/[\w./-]+)`", step)
        assert all((ROOT / name).exists() for name in names), names
        assert names or not step[0].isdigit(), step
