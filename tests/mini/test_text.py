"""Words: chains that parse, answers that a second reading of scene and words finds too, balance, a small vocabulary."""

import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.chains import COD, COT, parse
from sicog.mini.questions import QUESTION_TYPES, BalancedDraw, all_questions, question_text
from sicog.mini.reasoning import cot_bodies, cot_text
from sicog.mini.scene import HELD_OUT, LABELLED, UNLABELLED, Scene, Thing, draw_scene
from sicog.mini.text import brief_caption, cod_bodies, cod_caption, detailed_description, empty_corners
from sicog.mini.truth import answer_is_right, caption_scores, caption_things

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
    for text in (brief_caption(scene), detailed_description(scene), cod_caption(scene)):
        assert caption_scores(text, scene) == (1.0, 1.0, 1.0)
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
    assert cod_bodies(TWO)[1] == "The red circle is large. The blue star is small."
    assert cod_bodies(TWO)[3] == (
        "The background is beige. The top right, bottom left and bottom right corners are empty."
    )
    assert empty_corners(TWO) == ["top right", "bottom left", "bottom right"]
    assert "a large red circle at the top left and a small blue star at the right" in detailed_description(TWO)


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


READINGS = (
    (r"How many (.+) are (?:there|in the image)\?", lambda s, a: str(len(fits(s, a)))),
    (r"Is there an? (.+?)(?: in the image)?\?", lambda s, a: bool(fits(s, a))),
    (r"What (?:color is|is the color of) the (.+)\?", lambda s, a: the(s, a).colour),
    (r"What (?:shape is|is the shape of) the (.+)\?", lambda s, a: the(s, a).shape),
    (r"What (?:size is|is the size of) the (.+)\?", lambda s, a: the(s, a).size),
    (r"Is the (.+) to the left of the (.+)\?", lambda s, a, b: the(s, a).centre[0] < the(s, b).centre[0]),
    (r"Is the (.+) to the right of the (.+)\?", lambda s, a, b: the(s, a).centre[0] > the(s, b).centre[0]),
    (r"Is the (.+) above the (.+)\?", lambda s, a, b: the(s, a).centre[1] < the(s, b).centre[1]),
    (r"Is the (.+) on the left side of the image\?", lambda s, a: the(s, a).centre[0] < s.width / 3),
    (r"Is the (.+) on the right side of the image\?", lambda s, a: the(s, a).centre[0] > s.width * 2 / 3),
    (r"Is the (.+) at the top of the image\?", lambda s, a: the(s, a).centre[1] < s.height / 3),
    (r"Are there more (.+) than (.+)\?", lambda s, a, b: len(fits(s, a)) > len(fits(s, b))),
    (
        r"Is the (.+) larger than the (.+)\?",
        lambda s, a, b: the(s, a).box[2] - the(s, a).box[0] > 1.3 * (the(s, b).box[2] - the(s, b).box[0]),
    ),
    (r"Are the (.+) and the (.+) the same color\?", lambda s, a, b: the(s, a).colour == the(s, b).colour),
    (r"Are the (.+) and the (.+) the same shape\?", lambda s, a, b: the(s, a).shape == the(s, b).shape),
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
            for key in ("k1", "k2", "k3"):
                assert answer_is_right(q.answer, read_answer(scene, question_text(q, key)))


def asked(rules, name_held_out, n):
    draw = BalancedDraw(name_held_out=name_held_out)
    for i in range(n):
        scene = draw_scene(6, "b", i, rules)
        for type_ in QUESTION_TYPES:
            yield scene, draw.draw(scene, type_)


def test_answers_are_balanced():
    drawn = [q for _, q in asked(UNLABELLED, True, 1500)]
    answers = Counter((q.type, q.answer) for q in drawn)
    for type_ in ("exist", "relation", "compare"):
        assert abs(answers[type_, "yes"] - answers[type_, "no"]) <= 2
    forms = Counter((q.type, q.kind, q.answer) for q in drawn)
    for type_, kind in {(t, k) for t, k, _ in forms if t in ("relation", "compare")}:
        yes, no = forms[type_, kind, "yes"], forms[type_, kind, "no"]
        assert abs(yes - no) <= 0.12 * (yes + no), (type_, kind, yes, no)
    for kind in ("color", "shape", "size"):
        counts = [n for (t, k, _), n in forms.items() if (t, k) == ("attribute", kind)]
        assert max(counts) <= 1.3 * min(counts), (kind, counts)
    counts = {a: n / 1500 for (t, a), n in answers.items() if t == "count"}
    assert set(counts) == {"zero", "one", "two", "three", "four"}
    assert max(counts.values()) < 0.3 and min(counts.values()) > 0.07


def test_labelled_questions_never_name_a_held_out_pair():
    for _, q in asked(LABELLED, False, 300):
        text = question_text(q, "key")
        assert not any(re.search(rf"\b{colour} {shape}", text) for colour, shape in HELD_OUT), text
    assert any(q.asks_of_held_out for _, q in asked(UNLABELLED, True, 100))


# --- chains of thought ----------------------------------------------------------------------------------------------


def infer(question, seen):
    """The answer from the second step's words alone."""
    if question.type == "count":
        return str(0 if seen.startswith("There is no") else len(re.findall(r"at the", seen)))
    if question.type == "exist":
        _, colour, shape = question.args[0].split()
        return "yes" if re.search(rf"\b{colour} {shape}\b", seen) and "no " not in seen else "no"
    if question.type == "attribute":
        size, colour, shape = re.search(r"is the (\w+) (\w+) (\w+) at", seen).groups()
        return {"color": colour, "shape": shape, "size": size}[question.kind]
    regions = re.findall(r"is at the ([a-z ]+?)\.", seen)
    if question.kind == "side":
        side = {"on the left side": "left", "on the right side": "right", "at the top": "top"}[question.args[1]]
        return "yes" if side in regions[0].split() else "no"
    if question.type == "relation":
        column, row = {"left": 0, "right": 2}, {"top": 0, "bottom": 2}
        cells = [
            (
                next((column[w] for w in r.split() if w in column), 1),
                next((row[w] for w in r.split() if w in row), 1),
            )
            for r in regions
        ]
        (ax, ay), (bx, by) = cells
        return "yes" if {"left": ax < bx, "right": ax > bx, "above": ay < by}[question.kind] else "no"
    if question.kind == "more":
        first, second = (s for s in re.split(r"(?<=\.) ", seen))
        numbers = [0 if s.startswith("There is no") else s.count(" at the ") for s in (first, second)]
        return "yes" if numbers[0] > numbers[1] else "no"
    x, y = re.findall(r" is (?:an? )?(\w+)\.", seen)
    return "yes" if ((x, y) == ("large", "small") if question.kind == "larger" else x == y) else "no"


def test_the_answer_follows_from_what_is_seen():
    drawn = list(asked(UNLABELLED, True, 400))
    assert {q.kind for _, q in drawn} >= {"side", "more", "larger", "same color", "same shape", "swapped", "near"}
    for scene, q in drawn:
        _, seen, reason, answer = cot_bodies(scene, q, "key")
        assert answer == q.answer and reason.endswith(f"so the answer is {q.answer}.")
        assert answer_is_right(infer(q, seen), q.answer), (q, seen)


def test_what_the_chain_of_thought_sees_is_in_the_scene():
    for scene, q in asked(UNLABELLED, True, 150):
        _, seen, _, _ = cot_bodies(scene, q, "key")
        regions = re.findall(r"at the ((?:top |bottom )?(?:left|right)|top|bottom|center)\b", seen)
        assert set(regions) <= {scene.region(t) for t in scene.things}
        assert regions or seen.startswith("There is no")


def test_chains_of_thought_parse_back():
    for scene, q in asked(LABELLED, False, 100):
        assert parse(COT, cot_text(scene, q, "key")) == cot_bodies(scene, q, "key")


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_words_are_few_and_texts_short():
    vocabulary, lengths = set(), {}
    draw = BalancedDraw(name_held_out=True)
    for scene in SCENES:
        texts = {"brief": brief_caption(scene), "dd": detailed_description(scene), "cod": cod_caption(scene)}
        q = draw.draw(scene, QUESTION_TYPES[len(vocabulary) % 5])
        texts |= {"q": question_text(q, scene.id), "cot": cot_text(scene, q, scene.id)}
        for kind, text in texts.items():
            vocabulary |= set(re.findall(r"[a-z]+", text.lower()))
            lengths.setdefault(kind, []).append(len(text.split()))
    assert len(vocabulary) < 250
    assert np.mean(lengths["cod"]) < 130 and np.mean(lengths["cot"]) < 75 and max(lengths["dd"]) <= 45


def test_wording_varies():
    assert len({brief_caption(SimpleNamespace(id=f"x-{i}", things=TWO.things)) for i in range(20)}) == 3


# --- what a model wrote ---------------------------------------------------------------------------------------------


def test_caption_things_reads_only_the_last_step():
    chain = cod_caption(TWO)
    assert caption_things(chain) == [("large", "red", "circle"), ("small", "blue", "star")]
    assert caption_things(chain[: chain.index("Step 5")]) == []
    assert caption_things("A large red circle, a large red circle and a Small Blue Star.") == caption_things(chain)
    assert caption_things("red circle, large") == []


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
