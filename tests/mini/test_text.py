"""Words: chains that parse, answers that a second reading of scene and words finds too, balance, a small vocabulary."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.chains import COD, COT, parse
from sicog.mini.questions import QUESTION_TYPES, BalancedDraw, all_questions, question_text
from sicog.mini.reasoning import cot_bodies, cot_text
from sicog.mini.scene import COLUMNS, HELD_OUT, LABELLED, ROWS, UNLABELLED, Scene, Thing, draw_scene
from sicog.mini.text import NUMBERS, brief_caption, cod_bodies, cod_caption, detailed_description, full_name, place
from sicog.mini.truth import (
    answer_is_right,
    caption_places,
    caption_scores,
    caption_things,
    correct_places,
    placed_f1,
)

SCENES = [draw_scene(5, "text", i, UNLABELLED) for i in range(800)]
seeds = st.tuples(st.integers(0, 2**40), st.integers(0, 10_000))


def scene_of(*things, width=112, height=112):
    """A scene with things (size, colour, shape, column, row)."""
    made = []
    for size, colour, shape, column, row in things:
        half, x, y = (12 if size == "small" else 21), (24, 56, 88)[column], (24, 56, 88)[row]
        made.append(Thing(size, colour, shape, (x - half, y - half, x + half, y + half)))
    return Scene("hand-00000", width, height, "beige", tuple(made))


TWO = scene_of(("large", "red", "circle", 0, 0), ("small", "blue", "star", 2, 1))


# --- captions -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_captions_state_exactly_the_scene(seed):
    scene = draw_scene(seed[0], "h", seed[1], UNLABELLED)
    for text in (detailed_description(scene), cod_caption(scene)):
        assert caption_scores(text, scene) == (1.0, 1.0, 1.0)
        assert correct_places(text, scene) == [True] * len(scene.things)
    assert parse(COD, cod_caption(scene)) == cod_bodies(scene)
    assert cod_bodies(scene)[-1] == detailed_description(scene)


def test_relations_and_attributes_in_the_chain_are_true():
    for scene in SCENES[:300]:
        by_name = {}
        for t in scene.things:
            for words in (f"{t.colour} {t.shape}", f"{t.size} {t.colour} {t.shape}"):
                by_name[words] = t
        _, details, relations, margin, _ = cod_bodies(scene)
        assert len(re.findall(r"\bis (?:large|small)\.", details)) == len(scene.things)
        for a, relation, b in re.findall(r"The ([a-z ]+) is (left of|right of|above) the ([a-z ]+)\.", relations):
            (ax, ay), (bx, by) = by_name[a].centre, by_name[b].centre
            assert {"left of": ax < bx, "right of": ax > bx, "above": ay < by}[relation]
        assert scene.background in margin


def test_text_of_a_scene_by_hand():
    assert cod_bodies(TWO) == (
        "The image shows two things: a red circle and a blue star.",
        "The red circle is large. The blue star is small.",
        "The red circle is left of the blue star.",
        "The background is beige.",
        "The image shows a large red circle at the top left and a small blue star at the middle right on a beige "
        "background.",
    )


def test_a_brief_caption_names_one_or_two_things_and_no_size():
    three = scene_of(("small", "red", "star", 0, 0), ("large", "blue", "cross", 1, 1), ("small", "red", "cross", 2, 2))
    assert brief_caption(three) == "There is a red star and a blue cross."
    assert brief_caption(three, placed=True) == (
        "There is a red star at the top left and a blue cross at the middle center."
    )
    for scene in SCENES[:100]:
        things = re.findall(r"an? (\w+) (\w+) at the (\w+ \w+)", brief_caption(scene, placed=True))
        true = {(t.colour, t.shape, scene.region(t)) for t in scene.things}
        assert set(things) <= true and len(things) == min(2, len(true))


def test_things_alike_are_told_apart_by_size_or_place():
    twins = scene_of(("large", "red", "circle", 0, 0), ("small", "red", "circle", 2, 2))
    large, small = "The red circle at the top left is large.", "The red circle at the bottom right is small."
    assert cod_bodies(twins)[1] == f"{large} {small}"
    assert "large red circle" in cod_bodies(twins)[2] and "small red circle" in cod_bodies(twins)[2]


# --- questions ------------------------------------------------------------------------------------------------------


def fits(scene, words):
    """The things that a noun phrase means, read anew from its words."""
    singular = {"crosses": "cross", "circles": "circle", "squares": "square", "triangles": "triangle", "stars": "star"}
    wanted = {singular.get(w, w) for w in words.split()} - {"thing", "things", "a", "an", "the"}
    return [t for t in scene.things if wanted <= {t.size, t.colour, t.shape}]


def the(scene, words):
    (only,) = fits(scene, words)
    return only


def third(scene, thing):
    """(row, column), each 0, 1 or 2."""
    x, y = thing.centre
    return int(3 * y / scene.height), int(3 * x / scene.width)


def region(scene, thing):
    row, column = third(scene, thing)
    return f"{['top', 'middle', 'bottom'][row]} {['left', 'center', 'right'][column]}"


def side(scene, thing):
    """Of the thing's box, in shares of the image's side."""
    return (thing.box[2] - thing.box[0]) / (scene.width * scene.height) ** 0.5


def first_by(value, *names):
    """The name with the lower value; a tie would have no answer."""
    values = [value(name) for name in names]
    assert values[0] != values[1], names
    return names[values[0] > values[1]]


READINGS = (
    (r"How many (.+) are there\?", lambda s, a: str(len(fits(s, a)))),
    (r"Is there an? (.+)\?", lambda s, a: bool(fits(s, a))),
    (r"What color is the (.+)\?", lambda s, a: the(s, a).colour),
    (r"What shape is the (.+)\?", lambda s, a: the(s, a).shape),
    (r"What size is the (.+)\?", lambda s, a: the(s, a).size),
    (r"Where is the (.+)\?", lambda s, a: region(s, the(s, a))),
    (r"In which column is the (.+)\?", lambda s, a: region(s, the(s, a)).split()[1]),
    (r"In which row is the (.+)\?", lambda s, a: region(s, the(s, a)).split()[0]),
    (
        r"Which is further left, the (.+) or the (.+)\?",
        lambda s, a, b: first_by(lambda n: third(s, the(s, n))[1], a, b),
    ),
    (
        r"Which is further right, the (.+) or the (.+)\?",
        lambda s, a, b: first_by(lambda n: -third(s, the(s, n))[1], a, b),
    ),
    (r"Which is higher, the (.+) or the (.+)\?", lambda s, a, b: first_by(lambda n: third(s, the(s, n))[0], a, b)),
    (r"Which is lower, the (.+) or the (.+)\?", lambda s, a, b: first_by(lambda n: -third(s, the(s, n))[0], a, b)),
    (
        r"Which is larger, the (.+) or the (.+)\?",
        lambda s, a, b: first_by(lambda n: -round(side(s, the(s, n)), 1), a, b),
    ),
    (
        r"Which is smaller, the (.+) or the (.+)\?",
        lambda s, a, b: first_by(lambda n: round(side(s, the(s, n)), 1), a, b),
    ),
    (r"Which are there more of, (.+) or (.+)\?", lambda s, a, b: first_by(lambda n: -len(fits(s, n)), a, b)),
)


def read_answer(scene, text):
    for pattern, reading in READINGS:
        if match := re.fullmatch(pattern, text):
            value = reading(scene, *match.groups())
            return value if isinstance(value, str) else ("yes" if value else "no")
    raise AssertionError(f"no reading of {text!r}")


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_every_answer_is_right(seed):
    scene = draw_scene(seed[0], "q", seed[1], UNLABELLED)
    for type_ in QUESTION_TYPES:
        questions = all_questions(scene, type_, name_held_out=True)
        assert questions
        for q in questions:
            assert answer_is_right(q.answer, read_answer(scene, question_text(q)))


def asked(rules, name_held_out, n):
    draw = BalancedDraw(name_held_out=name_held_out)
    for i in range(n):
        scene = draw_scene(6, "b", i, rules)
        for type_ in QUESTION_TYPES:
            yield scene, draw.draw(scene, type_)


def test_answers_are_balanced():
    drawn = [q for _, q in asked(UNLABELLED, True, 1500)]
    answers = Counter((q.type, q.answer) for q in drawn)
    assert abs(answers["exist", "yes"] - answers["exist", "no"]) <= 2
    forms = Counter((q.type, q.kind, q.choice or q.answer) for q in drawn)
    for type_, kind in {(t, k) for t, k, choice in forms if choice == "first"}:
        first, second = forms[type_, kind, "first"], forms[type_, kind, "second"]
        assert abs(first - second) <= 0.05 * (first + second), (type_, kind, first, second)
    for type_, kinds in (("attribute", ("color", "shape", "size", "place")), ("relation", ("column", "row"))):
        for kind in kinds:
            counts = [n for (t, k, _), n in forms.items() if (t, k) == (type_, kind)]
            assert max(counts) <= 1.3 * min(counts), (kind, counts)
    counts = {a: n / 1500 for (t, a), n in answers.items() if t == "count"}
    assert set(counts) == {"zero", "one", "two", "three", "four"}
    assert max(counts.values()) < 0.3 and min(counts.values()) > 0.07


def test_labelled_questions_never_name_a_held_out_pair():
    for _, q in asked(LABELLED, False, 300):
        text = question_text(q)
        assert not any(re.search(rf"\b{colour} {shape}", text) for colour, shape in HELD_OUT), text
    assert any(q.names_held_out for _, q in asked(UNLABELLED, True, 100))


# --- chains of thought ----------------------------------------------------------------------------------------------


def rebuilt(seen):
    """A scene made of the second step's words alone."""
    stated = re.findall(r"an? (\w+) (\w+) (\w+) at the (\w+) (\w+)", seen)
    return scene_of(*((size, *kind, COLUMNS.index(column), ROWS.index(row)) for size, *kind, row, column in stated))


def test_the_answer_follows_from_what_is_seen():
    drawn = list(asked(UNLABELLED, True, 400))
    kinds = {"column", "left", "right", "above", "below", "more", "larger", "smaller", "near", "absent", "place"}
    assert {q.kind for _, q in drawn} >= kinds
    for scene, q in drawn:
        _, seen, reason, answer = cot_bodies(scene, q)
        assert answer == q.answer and reason.endswith(f"so the answer is {q.answer}.")
        assert caption_scores(seen, scene) == (1, 1, 1) and all(correct_places(seen, scene))
        assert answer_is_right(read_answer(rebuilt(seen), question_text(q)), q.answer), (q, seen)


LOWEST = {"left": COLUMNS, "right": COLUMNS[::-1], "above": ROWS, "below": ROWS[::-1], "more": NUMBERS[::-1]}
LOWEST |= {"larger": ("large", "small"), "smaller": ("small", "large")}


def test_every_verdict_of_the_third_step_is_true_where_it_stands():
    found = Counter()
    for scene, q in asked(UNLABELLED, True, 300):
        _, _, reason, answer = cot_bodies(scene, q)
        reason = reason.rpartition(", so the answer")[0]
        found[q.kind if q.choice else q.type] += 1
        if q.type in ("count", "exist"):
            check_walk(scene, q, reason.removeprefix("Look: ").split("; "))
            continue
        words = words_of(scene, q) if q.choice else [answer]
        if q.choice:
            reason, choice = reason.rsplit(": ", 1)
            what, x, of_x, y, of_y, verdict, name = re.fullmatch(
                r"([a-z ]+), (\w+) ([a-z ]+) or (\w+) ([a-z ]+)\? (\w+) ([a-z ]+)", choice
            ).groups()
            assert what in question_text(q) and name == answer, (q, choice)
            assert verdict == min(x, y, key=LOWEST[q.kind].index), (q, choice)
            assert ((of_x, x), (of_y, y)) == tuple(zip(q.args, words, strict=True)), (q, choice)
        if q.kind != "more":
            parts = reason.lower().split("; ")
            for name, word, part in zip(q.args, words, parts, strict=True):
                thing = the(scene, name)
                behind = f"{word} {name}" if q.choice else word
                assert part == f"the {name} is the {full_name(thing)} {place(scene, thing)}: {behind}", (q, reason)
    assert all(found[kind] > 20 for kind in ("count", "exist", "attribute", "relation", *LOWEST)), found


def check_walk(scene, q, parts):
    """Each thing with its verdict, of counts with the number so far."""
    number = 0
    for thing, part in zip(scene.things, parts, strict=False):
        name, verdict = part.split(": ")
        counts = q.kind == "all" or any(thing in fits(scene, words) for words in q.args)
        number += counts
        assert name == f"{thing.colour} {thing.shape}"
        if q.type == "count":
            said = NUMBERS[number] if q.kind == "all" else f"{'yes' if counts else 'no'}, {NUMBERS[number]}"
            assert verdict == said, (q, parts)
        else:
            assert verdict == ("yes" if counts else "no"), (q, parts)
    assert len(parts) == len(scene.things) or q.answer == "yes"


def words_of(scene, q):
    """Of each thing or group that a choice names the word that decides."""
    if q.kind == "more":
        return [NUMBERS[len(fits(scene, many))] for many in q.args]
    things = [the(scene, name) for name in q.args]
    if q.type == "compare":
        return [thing.size for thing in things]
    return [region(scene, thing).split()[q.kind in ("left", "right")] for thing in things]


def test_chains_of_thought_parse_back():
    for scene, q in asked(LABELLED, False, 100):
        assert parse(COT, cot_text(scene, q)) == cot_bodies(scene, q)


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_words_are_few_and_texts_short():
    vocabulary, lengths = set(), {}
    draw = BalancedDraw(name_held_out=True)
    for scene in SCENES:
        texts = {"brief": brief_caption(scene, placed=True), "dd": detailed_description(scene)}
        texts["cod"] = cod_caption(scene)
        q = draw.draw(scene, QUESTION_TYPES[len(vocabulary) % 5])
        texts |= {"q": question_text(q), "cot": cot_text(scene, q)}
        for kind, text in texts.items():
            vocabulary |= set(re.findall(r"[a-z]+", text.lower()))
            lengths.setdefault(kind, []).append(len(text.split()))
    assert len(vocabulary) < 250
    assert np.mean(lengths["cod"]) < 130 and np.mean(lengths["cot"]) < 90 and max(lengths["dd"]) <= 45


# --- what a model wrote ---------------------------------------------------------------------------------------------


def test_caption_things_reads_only_the_last_step():
    chain = cod_caption(TWO)
    assert caption_things(chain) == [("large", "red", "circle"), ("small", "blue", "star")]
    assert caption_things(chain[: chain.index("Step 5")]) == []
    assert caption_things("A large red circle, a large red circle and a Small Blue Star.") == caption_things(chain)
    assert caption_things("red circle, large") == []


def test_places_are_read_with_the_things_that_they_are_stated_for():
    text = "A Large Red Circle at the Top Left, a small blue star at the top center and a small red star."
    assert caption_places(text) == {("large", "red", "circle"): "top left", ("small", "blue", "star"): "top center"}
    assert correct_places(text, TWO) == [True, False]  # of the two that are there; the star stands elsewhere
    assert correct_places("a large red circle", TWO) == [False]  # named without its place
    assert placed_f1(text, TWO) == pytest.approx(2 / 5) and placed_f1("", TWO) == 0
    assert placed_f1(detailed_description(TWO), TWO) == 1
    chain = cod_caption(TWO)
    assert correct_places(chain, TWO) == [True, True]
    assert correct_places(chain[: chain.index("Step 5")], TWO) == []


@pytest.mark.parametrize(
    "text, scores",
    [
        ("a large red circle", (1.0, 0.5, 2 / 3)),
        ("a large red circle and a small red star", (0.5, 0.5, 0.5)),
        ("a small red circle", (0.0, 0.0, 0.0)),
        ("", (0.0, 0.0, 0.0)),
    ],
)
def test_caption_scores(text, scores):
    assert caption_scores(text, TWO) == pytest.approx(scores)


@pytest.mark.parametrize("text, truth, right", [("Two.", "two", True), ("2", "two", True), ("yes", "no", False)])
def test_answers_are_compared_after_normalisation(text, truth, right):
    assert answer_is_right(text, truth) is right
