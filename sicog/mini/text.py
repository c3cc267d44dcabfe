"""Texts about a scene: brief caption, detailed description and 5-step chain of description.

The grammar is small and regular, because a model of a few million parameters must learn it. The content of a scene
determines every word.
"""

from __future__ import annotations

from collections.abc import Sequence

from sicog.chains import COD, render
from sicog.mini.scene import SHAPES, Scene, Thing
from sicog.tasks import CAPTIONING

NUMBERS = ("zero", "one", "two", "three", "four")
BRIEF_INSTRUCTIONS = ("Describe the image briefly.", "What is in the image?")
PLACED_INSTRUCTIONS = ("Say briefly what is where.", "What is where in the image?")
MOST_IN_BRIEF = 2  # maximum number of things in a brief caption
# The prompt of the `cod` style without its request for steps is the question of captioning queries.
CAPTION_QUESTION = CAPTIONING.style("cod").template.removesuffix(" Describe the image step-by-step.")


def join(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def a(words: str) -> str:
    """Return the words with their indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def capital(sentence: str) -> str:
    """Return the sentence with a capital first letter."""
    return sentence[0].upper() + sentence[1:]


def plural(shape: str) -> str:
    """Return the shape's plural."""
    return "crosses" if shape == "cross" else f"{shape}s"


def singular(word: str) -> str:
    """Return the shape of a plural; other words unchanged."""
    return "cross" if word == "crosses" else word.removesuffix("s") if word.removesuffix("s") in SHAPES else word


def full_name(thing: Thing) -> str:
    """Return `large red circle`, the parts that evaluation checks in a caption."""
    return f"{thing.size} {thing.colour} {thing.shape}"


def name(scene: Scene, thing: Thing) -> str:
    """Return `red circle`, with the size if the scene has another thing of this colour and shape."""
    same = [t for t in scene.things if (t.colour, t.shape) == (thing.colour, thing.shape)]
    return full_name(thing) if len(same) > 1 else f"{thing.colour} {thing.shape}"


def place(scene: Scene, thing: Thing) -> str:
    """`at the top left`."""
    return f"at the {scene.region(thing)}"


def number_of_things(scene: Scene) -> str:
    """`one thing`, `three things`."""
    n = len(scene.things)
    return f"{NUMBERS[n]} thing{'s' if n > 1 else ''}"


def salient_things(scene: Scene) -> list[Thing]:
    """Return the things of a brief caption: at most two, large ones before small ones, in reading order."""
    chosen = sorted(scene.things, key=lambda t: t.size != "large")[:MOST_IN_BRIEF]
    return [t for t in scene.things if t in chosen]


def brief_caption(scene: Scene, *, placed: bool = False) -> str:
    """Return colour and shape of one or two things, optionally with places; as weak as alignment captions."""
    listed = [a(f"{t.colour} {t.shape}") + (f" {place(scene, t)}" if placed else "") for t in salient_things(scene)]
    return f"There is {join(listed)}."


def listing(scene: Scene) -> str:
    """Return every thing with its attributes and place, in reading order."""
    return join([f"{a(full_name(t))} {place(scene, t)}" for t in scene.things])


def detailed_description(scene: Scene) -> str:
    """Return every thing with attributes and place, and the background: the body of the chain's last step."""
    return f"The image shows {listing(scene)} on a {scene.background} background."


def cod_bodies(scene: Scene) -> tuple[str, ...]:
    """Return the bodies of the five steps: salient content, instances, relations, margins, cohesive description."""
    named = join([a(f"{t.colour} {t.shape}") for t in scene.things])
    return (
        f"The image shows {number_of_things(scene)}: {named}.",
        " ".join(f"{_instance(scene, t)} is {t.size}." for t in scene.things),
        _relations(scene),
        f"The background is {scene.background}.",
        detailed_description(scene),
    )


def cod_caption(scene: Scene) -> str:
    """Return the whole chain of description."""
    return render(COD, cod_bodies(scene))


def _instance(scene: Scene, thing: Thing) -> str:
    """Return the thing without its size, with its place if another thing has its colour and shape."""
    words = f"{thing.colour} {thing.shape}"
    return f"The {words}" if name(scene, thing) == words else f"The {words} {place(scene, thing)}"


def _relations(scene: Scene) -> str:
    """Return at most two relations, each between neighbours in reading order."""
    if len(scene.things) == 1:
        return f"The {name(scene, scene.things[0])} stands alone."
    pairs = list(zip(scene.things, scene.things[1:], strict=False))[:2]
    return " ".join(_relation(scene, first, second) for first, second in pairs)


def _relation(scene: Scene, first: Thing, second: Thing) -> str:
    """Return the relation of two things; in one column, the first in reading order is above the second."""
    difference = scene.column(second) - scene.column(first)
    relation = "left of" if difference > 0 else "right of" if difference < 0 else "above"
    return f"The {name(scene, first)} is {relation} the {name(scene, second)}."
