"""Grammar of the mini world: read and write claims about things, their attributes and places, and the background."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from sicog.curation.claims.readers import Stated, Window
from sicog.mini.scene import BACKGROUNDS, COLOURS, COLUMNS, REGIONS, ROWS, SHAPES, SIZES
from sicog.mini.text import a, join
from sicog.mini.truth import stated_span
from sicog.records import Claim

_PLACE = rf"at the ({'|'.join(ROWS)}) ({'|'.join(COLUMNS)})\b"
_THING = re.compile(rf"\b({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b(?: {_PLACE})?")
_GROUND = re.compile(rf"\b({'|'.join(BACKGROUNDS)}) background\b")


class MiniGrammar:
    """`thing`: `large red circle`; `place`: `large red circle at the top left`; `background`: `white`."""

    name = "mini world 4"

    def read(self, text: str, window: Window | None) -> list[Stated]:
        """Return the claims of a text (of a chain of description, its last step), each key once.

        A claim about a window is placed in the region of the window's centre.
        """
        found: dict[tuple[str, str], Stated] = {}
        start, stop = stated_span(text)
        for m in _THING.finditer(text, start, stop):
            thing = " ".join(m.group(1, 2, 3))
            found.setdefault(("thing", thing), Stated(thing, "thing", m.start(), m.end(3)))
            if region := _region(window) if window else m.group(4) and f"{m.group(4)} {m.group(5)}":
                key = f"{thing} at the {region}"
                found.setdefault(("place", key), Stated(key, "place", m.start(), m.end()))
        for m in _GROUND.finditer(text, start, stop):
            found.setdefault(("background", m.group(1)), Stated(m.group(1), "background", m.start(), m.end()))
        return list(found.values())

    def ask(self, claim: Claim) -> tuple[str, str] | None:
        """Return a question and the answer that confirms the claim: whether there is such a thing, or where it is."""
        if claim.kind == "background":
            return None
        thing, _, region = claim.key.partition(" at the ")
        _, _, pair = thing.partition(" ")
        return (f"Where is the {pair}?", region) if region else (f"Is there {a(pair)}?", "yes")

    def write(self, claims: Sequence[tuple[Claim, float]]) -> str | None:
        """Return a detailed description of the things, each at its strongest place.

        Of two things at one place the stronger stays. None without a placed thing or without a background.
        """
        stated = {(c.kind, c.key): strength for c, strength in claims}
        places: dict[str, dict[str, float]] = defaultdict(dict)
        for (kind, key), strength in stated.items():
            if kind == "place":
                thing, _, region = key.partition(" at the ")
                places[thing][region] = strength
        by_region: dict[str, tuple[float, str]] = {}
        for thing, regions in places.items():
            if ("thing", thing) in stated:
                region = max(regions, key=lambda r: (regions[r], -REGIONS.index(r)))
                best = (stated["thing", thing], thing)
                by_region[region] = max(by_region.get(region, best), best)
        grounds = {key: n for (kind, key), n in stated.items() if kind == "background"}
        if not by_region or not grounds:
            return None
        listed = join([f"{a(by_region[r][1])} at the {r}" for r in REGIONS if r in by_region])
        return f"The image shows {listed} on a {max(sorted(grounds), key=lambda g: grounds[g])} background."


def _region(window: Window) -> str:
    left, top, right, bottom = window
    row, column = (min(2, int(3 * (low + high) / 2)) for low, high in ((top, bottom), (left, right)))
    return f"{ROWS[row]} {COLUMNS[column]}"


GRAMMAR = MiniGrammar()
