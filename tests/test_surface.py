"""surface.json: commands and keys are those of the code, and whoever changes them says so in CHANGELOG.md."""

import copy
import json

import pytest
import surface

NOW = surface.of_the_code()
STORED = json.loads(surface.FILE.read_text())


def test_commands_and_keys_are_those_of_the_file_and_the_changelog_names_every_change():
    found = surface.problems(STORED, NOW, surface.CHANGELOG.read_text())
    assert not found, "\n".join(found)


def test_everything_is_in_it():
    assert NOW["commands"]["data check"] == "DATA (required), OVERRIDES..., --image-folder, --checkpoint, --out"
    assert NOW["commands"]["mini-data"].endswith("--out, --seed = 1, --dry-run")
    assert NOW["keys"]["select"]["threshold"].startswith("number") and NOW["keys"]["run"]["steps.NAME.run"]
    assert NOW["keys"]["train"]["run_dir"] == "another name of out_dir"
    assert "encoder.endpoint.prices.input" in NOW["keys"]["claims"]
    assert sum(map(len, NOW["keys"].values())) > 535


def changed(**keys):
    now = copy.deepcopy(NOW)
    for key, text in keys.items():
        if text is None:
            del now["keys"]["select"][key]
        else:
            now["keys"]["select"][key] = text
    return now


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (changed(new_key="integer = 1"), "+ select: new_key: integer = 1"),
        (changed(threshold=None), "- select: threshold: "),
        (changed(threshold="text = x"), "-> text = x"),
        ({**NOW, "commands": {**NOW["commands"], "new": "--out"}}, "+ sicog new: --out"),
    ],
)
def test_a_change_is_found_and_says_what_to_do(now, says):
    (found,) = surface.problems(STORED, now, surface.CHANGELOG.read_text())
    assert says in found and "`python tests/surface.py`" in found and "CHANGELOG.md" in found


def test_a_renewed_file_needs_a_line_of_its_own(tmp_path):
    file, log = tmp_path / "surface.json", tmp_path / "CHANGELOG.md"
    log.write_text("# Changelog\n")
    line = surface.renew(NOW, file, log)
    assert line == f"- Surface 1 ({surface.digest(NOW)}): WHAT CHANGED" == surface.renew(NOW, file, log)
    assert surface.problems(json.loads(file.read_text()), NOW, log.read_text()) == [
        "CHANGELOG.md has no line `- Surface 1 (...): what changed`"
    ]
    first = line.replace("WHAT CHANGED", "The first one, with\n  all commands.")
    log.write_text(f"# Changelog\n{first}\n- Another line\n")
    assert not surface.problems(json.loads(file.read_text()), NOW, log.read_text()) and not surface.renew(
        NOW, file, log
    )

    now = changed(new_key="integer = 1")
    second = surface.renew(now, file, log)
    stored = json.loads(file.read_text())
    assert stored["version"] == 2 and surface.problems(stored, now, log.read_text())
    replaced = log.read_text().replace(surface.digest(NOW), surface.digest(now))
    assert surface.problems(stored, now, replaced)  # an old line with a new digest is no new line
    log.write_text(log.read_text() + second.replace("WHAT CHANGED", "+"))
    assert surface.problems(stored, now, log.read_text()) == ["surface 2 in CHANGELOG.md: say what changed"]
    log.write_text(log.read_text().replace(": +", ": `new_key` of `select`."))
    assert not surface.problems(stored, now, log.read_text())
    by_hand = {**stored, **changed(other="text = x")}
    assert "do not change an old one" in surface.problems(by_hand, changed(other="text = x"), log.read_text())[0]
    with pytest.raises(ValueError, match="two lines"):
        surface.lines_of(log.read_text() + f"\n{second}")
