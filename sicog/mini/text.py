"""What can be said of a scene: the brief caption, the detailed description and the 5-step chain of description.

The grammar is small and regular, since a model of a few million parameters must learn it; the wording varies with
the scene's id, the truth never does.
"""

from __future__ import annotations

from collections.abc import Sequence

from sicog.chains import COD, render
from sicog.mini.scene import Scene, Thing, choose
from sicog.tasks import CAPTIONING

NUMBERS = ("zero", "one", "two", "three", "four")
BRIEF_INSTRUCTIONS = (
    "Describe the image briefly.",
    "Give a short caption of this image.",
    "What is in the image?",
    "Write a short description of the image.",
)
# The prompt of the `cod` style without its request for steps: the question of the captioning queries.
CAPTION_QUESTION = CAPTIONING.style("cod").template.removesuffix(" Describe the image step-by-step.")
CORNER = 0.2  # a corner is the outer fifth of the width and of the height


def join(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def a(words: str) -> str:
    """The words with their indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def capital(sentence: str) -> str:
    """The sentence with a capital first letter."""
    return sentence[0].upper() + sentence[1:]


def plural(shape: str) -> str:
    """The shape's plural."""
    return "crosses" if shape == "cross" else f"{shape}s"


def full_name(thing: Thing) -> str:
    """`large red circle`: all that evaluation asks of a caption."""
    return f"{thing.size} {thing.colour} {thing.shape}"


def name(scene: Scene, thing: Thing) -> str:
    """`red circle`, with the size where the scene holds another one of that colour and shape."""
    same = [t for t in scene.things if (t.colour, t.shape) == (thing.colour, thing.shape)]
    return full_name(thing) if len(same) > 1 else f"{thing.colour} {thing.shape}"


def place(scene: Scene, thing: Thing) -> str:
    """`at the top left`."""
    return f"at the {scene.region(thing)}"


def number_of_things(scene: Scene) -> str:
    """`one thing`, `three things`."""
    n = len(scene.things)
    return f"{NUMBERS[n]} thing{'s' if n > 1 else ''}"


def brief_caption(scene: Scene) -> str:
    """One sentence that names every thing with its attributes: what alignment trains on."""
    listed = join([a(full_name(t)) for t in scene.things])
    return choose((capital(f"{listed}."), f"An image of {listed}.", f"There is {listed}."), scene.id, "brief")


def detailed_description(scene: Scene) -> str:
    """Every thing with its attributes and place, and the background: the body of the chain's last step."""
    listed = join([f"{a(full_name(t))} {place(scene, t)}" for t in scene.things])
    ground = f"{scene.background} background"
    return choose(
        (f"On a {ground}, there is {listed}.", f"The image shows {listed} on a {ground}."), scene.id, "detailed"
    )


def cod_bodies(scene: Scene) -> tuple[str, ...]:
    """The bodies of the five steps: salient content, instances, relations, margins, cohesive description."""
    return (
        _salient(scene),
        " ".join(f"{_instance(scene, t)} is {t.size}." for t in scene.things),
        _relations(scene),
        f"The background is {scene.background}. {_corners(scene)}",
        detailed_description(scene),
    )


def cod_caption(scene: Scene) -> str:
    """The whole chain of description."""
    return render(COD, cod_bodies(scene))


def _salient(scene: Scene) -> str:
    listed, number = join([a(f"{t.colour} {t.shape}") for t in scene.things]), number_of_things(scene)
    return choose((f"The image shows {number}: {listed}.", capital(f"{number}: {listed}.")), scene.id, "salient")


def _instance(scene: Scene, thing: Thing) -> str:
    """The thing without its size, with its place where another one has its colour and shape."""
    words = f"{thing.colour} {thing.shape}"
    return f"The {words}" if name(scene, thing) == words else f"The {words} {place(scene, thing)}"


def _relations(scene: Scene) -> str:
    """At most two relations, each between neighbours in reading order."""
    if len(scene.things) == 1:
        return f"The {name(scene, scene.things[0])} stands alone."
    pairs = list(zip(scene.things, scene.things[1:], strict=False))[:2]
    return " ".join(_relation(scene, first, second) for first, second in pairs)


def _relation(scene: Scene, first: Thing, second: Thing) -> str:
    options = []
    if scene.row(first) < scene.row(second):
        options.append((first, "above", second))
    if (difference := scene.column(second) - scene.column(first)) != 0:
        left, right = (first, second) if difference > 0 else (second, first)
        options += [(left, "left of", right), (right, "right of", left)]
    subject, relation, other = choose(options, scene.id, "relation", first, second)
    return f"The {name(scene, subject)} is {relation} the {name(scene, other)}."


def empty_corners(scene: Scene) -> list[str]:
    """The corners that no thing's box reaches into."""
    found = []
    for row in ("top", "bottom"):
        for column in ("left", "right"):
            x0, x1 = (0.0, CORNER) if column == "left" else (1 - CORNER, 1.0)
            y0, y1 = (0.0, CORNER) if row == "top" else (1 - CORNER, 1.0)
            zone = (x0 * scene.width, y0 * scene.height, x1 * scene.width, y1 * scene.height)
            if not any(_reaches(t.box, zone) for t in scene.things):
                found.append(f"{row} {column}")
    return found


def _reaches(box: tuple[int, int, int, int], zone: tuple[float, float, float, float]) -> bool:
    return box[0] < zone[2] and zone[0] < box[2] and box[1] < zone[3] and zone[1] < box[3]


def _corners(scene: Scene) -> str:
    empty = empty_corners(scene)
    if len(empty) in (0, 4):
        return "No corner is empty." if not empty else "All corners are empty."
    if len(empty) == 1:
        return f"Only the {empty[0]} corner is empty."
    return f"The {join(empty)} corners are empty."
