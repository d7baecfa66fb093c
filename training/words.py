"""Captions of scenes: full ones that name everything, and loose ones that imitate a user's prompt.

Every word here is a token of the demo's tokenizer; any other word is unknown. So loose captions contain made-up words
and leave attributes out, and the model learns to fill the gaps.
"""

import math
import re
import zlib

import numpy as np

from training.shapes import CELL, Scene

COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet", "ruby"),
    "green": ("green", "emerald", "lime"),
    "blue": ("blue", "azure", "navy"),
    "yellow": ("yellow", "golden", "gold", "lemon"),
    "orange": ("orange", "amber"),
    "purple": ("purple", "violet", "magenta"),
    "white": ("white", "pale", "silver"),
    "black": ("black", "dark", "ebony"),
}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("fire", "lava", "mars"),
    "green": ("grass", "forest", "meadow", "field", "jungle", "garden", "park"),
    "blue": ("sky", "sea", "ocean", "water", "lake", "river", "rain"),
    "yellow": ("beach", "sand", "desert", "sun"),
    "orange": ("sunset", "sunrise", "dusk", "autumn"),
    "purple": ("lavender", "twilight", "neon"),
    "white": ("snow", "ice", "clouds", "fog", "winter", "paper"),
    "black": ("night", "space", "darkness", "cave", "midnight"),
}
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "ball", "dot", "moon"),
    "square": ("square", "box", "block", "cube", "tile"),
    "triangle": ("triangle", "pyramid", "arrowhead"),
    "star": ("star", "starfish"),
}
MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("moves left", "moving left", "slides to the left", "drifts left", "goes from right to left",
             "moves to the left", "runs to the left"),
    "right": ("moves right", "moving right", "slides to the right", "drifts right", "goes from left to right",
              "moves to the right", "runs to the right"),
    "up": ("moves up", "moving up", "rises", "floats up", "goes up", "moving upwards", "flies up"),
    "down": ("moves down", "moving down", "falls", "sinks", "goes down", "moving downwards", "drops down"),
    "still": ("stays still", "standing still", "rests", "does not move", "is still", "stays in place"),
    "growing": ("grows", "growing", "gets bigger", "expands", "is growing larger", "comes closer"),
    "shrinking": ("shrinks", "shrinking", "gets smaller", "contracts", "is getting smaller", "becomes smaller"),
    "turning": ("turns", "turning", "rotates", "spins", "is spinning", "rotating on the spot"),
    "bouncing": ("bounces", "bouncing", "jumps", "hops", "bounces up and down", "is jumping"),
    "circling": ("moves in a circle", "circling", "goes round and round", "moves around in a circle", "orbits"),
}  # fmt: skip
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("", "", "", "medium"),
    "big": ("big", "large", "huge"),
}
TEMPLATES = (
    "a {size} {color} {shape} {motion} on a {back} background",
    "a {size} {color} {shape} {motion} , {back} background",
    "{size} {color} {shape} {motion} in front of a {back} background",
    "the {size} {color} {shape} {motion} over a {back} background .",
    "on a {back} background , a {size} {color} {shape} {motion}",
    "{back} background , {size} {color} {shape} {motion}",
    "a video of a {size} {color} {shape} that {motion} against a {back} background",
    "a {size} {color} {shape} {motion} on {back}",
    "the {shape} is {color} and {motion} , the background is {back}",
    "a {size} {color} {shape} on a {back} background {motion}",
)
TWO_TEMPLATES = (
    "a {size} {color} {shape} {motion} {where} a {size2} {color2} {shape2} on a {back} background",
    "on a {back} background , a {size} {color} {shape} {motion} {where} a {color2} {shape2}",
    "a {color} {shape} {motion} {where} a {color2} {shape2} , {back} background",
    "a {color2} {shape2} on a {back} background , and a {color} {shape} that {motion} {where} it",
)
WHERE_WORDS: dict[bool, tuple[str, ...]] = {  # key: whether the second object is in front of the first
    True: ("behind", "behind", "passing behind"),
    False: ("in front of", "before", "passing in front of"),
}
AT_WORDS: dict[tuple[int, int], tuple[str, ...]] = {  # key: the object's side of the middle, as (x, y)
    (0, 0): ("in the middle", "in the center"),
    (-1, 0): ("on the left", "on the left side", "at the left"),
    (1, 0): ("on the right", "on the right side", "at the right"),
    (0, -1): ("at the top", "near the top", "in the upper half"),
    (0, 1): ("at the bottom", "near the bottom", "in the lower half"),
    (-1, -1): ("at the top left", "in the upper left corner", "in the upper left"),
    (1, -1): ("at the top right", "in the upper right corner", "in the upper right"),
    (-1, 1): ("at the bottom left", "in the lower left corner", "in the lower left"),
    (1, 1): ("at the bottom right", "in the lower right corner", "in the lower right"),
}
PLACE_TEMPLATES = (
    "a {size} {color} {shape} {motion} at the {place}",
    "a {size} {color} {shape} {motion} in the {place}",
    "a {color} {shape} {motion} over the {place} .",
    "{place} , a {color} {shape} {motion}",
)
FILLERS = (
    "a", "an", "the", "in", "on", "at", "of", "with", "and", "to", "along", "through", "under", "into", "is", "from",
    "camera", "video", "cinematic", "shot", "scene", "light", "runs", "walks", "moves", "flies", "swims", "dances",
)  # fmt: skip
NEGATIVE_PROMPTS = (  # the defaults of Segmind's two calls
    "low quality, blurry",
    "The video is not of a high quality, it has a low resolution. Watermark present in each frame. "
    "Strange motion trajectory.",
)
PUNCTUATION = (",", ".", "!", "?", ":", ";", '"', "'", "-")


def reserved(text: str) -> bool:
    """Whether this sentence pattern (one in ten) is never used in training, so that the model can be tested with it."""
    return zlib.crc32(text.lower().encode()) % 10 == 0


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence that names shape, colour, background, motion, size and position, and the second object if there is
    one.

    The words for medium size and for the middle position may be left out.
    """

    def pick(words: tuple[str, ...]) -> str:
        # The first word of each list is the plain word, and half of the captions use it.
        return words[0] if rng.random() < 0.5 else str(rng.choice(words))

    templates: tuple[str, ...] = TEMPLATES
    if scene.other is not None:
        templates = TWO_TEMPLATES
    elif rng.random() < 0.12:
        templates = PLACE_TEMPLATES
    needed = {"{size}": scene.size, "{size2}": scene.other.size if scene.other else "medium"}
    templates = tuple(t for t in templates if all(size == "medium" or slot in t for slot, size in needed.items()))
    second = {}
    if scene.other is not None:
        second = {
            "size2": str(rng.choice(SIZE_WORDS[scene.other.size])),
            "color2": pick(COLOR_WORDS[scene.other.color]),
            "shape2": pick(SHAPE_WORDS[scene.other.shape]),
            "where": str(rng.choice(WHERE_WORDS[scene.other.in_front])),
        }
    text = str(rng.choice(templates)).format(
        **second,
        size=str(rng.choice(SIZE_WORDS[scene.size])),
        color=pick(COLOR_WORDS[scene.color]),
        shape=pick(SHAPE_WORDS[scene.shape]),
        motion=pick(MOTION_WORDS[scene.motion]),
        back=pick(COLOR_WORDS[scene.background]),
        place=pick(PLACE_WORDS[scene.background]),
    )
    x, y = place_of(scene)
    if (x or y) or rng.random() < 0.1:
        at = pick(AT_WORDS[x, y])
        text = f"{at} , {text}" if rng.random() < 0.5 or text.endswith(".") else f"{text} , {at}"
    return _tidy(text, rng)


def place_of(scene: Scene) -> tuple[int, int]:
    """Whether a scene is left (-1) or right (1) of the middle, and above (-1) or below (1) it."""

    def side(offset: float) -> int:
        return 0 if abs(offset) < CELL / 2 else int(math.copysign(1, offset))

    return side(scene.x), side(scene.y)


def loose_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence like a user's: unknown words, and only some of the scene's attributes.

    "A golden retriever" is an object of golden colour and any shape. The object never has its background's colour, even
    "on a beach", which is also yellow.
    """

    def perhaps(words: tuple[str, ...], share: float) -> str:
        return str(rng.choice(words)) if rng.random() < share else ""

    def thing(color: str, shape: str) -> str:
        noun = perhaps(SHAPE_WORDS[shape], 0.35) or _invented(rng)
        return f"{perhaps(('', _invented(rng)), 0.5)} {perhaps(COLOR_WORDS[color], 0.6)} {noun}"

    first = thing(scene.color, scene.shape)
    parts = [perhaps(("a", "the", ""), 0.9) + f" {first}", perhaps(MOTION_WORDS[scene.motion], 0.45)]
    if scene.other is not None:
        between = perhaps(WHERE_WORDS[scene.other.in_front], 0.4) or str(rng.choice(FILLERS))
        parts.append(f"{between} a {thing(scene.other.color, scene.other.shape)}")
    contrary = any(word in first.split() for word in COLOR_WORDS[scene.color]) and rng.random() < 0.15
    place = perhaps(PLACE_WORDS[scene.color if contrary else scene.background], 0.6)
    if place:
        parts.append(f"{rng.choice(('in', 'on', 'over', 'along', 'through', 'at', 'with'))} the {place}")
    for _ in range(int(rng.integers(0, 8 if rng.random() < 0.75 else 36))):
        word = str(rng.choice(FILLERS)) if rng.random() < 0.5 else _invented(rng)
        parts.insert(int(rng.integers(0, len(parts) + 1)), word)
    return _tidy(" ".join(parts), rng)


def empty_caption(rng: np.random.Generator) -> str:
    """A caption without information. It is empty, or it resembles clients' negative prompts and consists mostly of
    unknown words."""
    kind = rng.random()
    if kind < 0.5:
        return ""
    if kind < 0.75:
        return str(rng.choice(NEGATIVE_PROMPTS))
    common = ("a", "the", "in", "of", "is")
    words = [str(rng.choice(common)) if rng.random() < 0.3 else _invented(rng) for _ in range(int(rng.integers(1, 31)))]
    return _tidy(" ".join(words), rng)


def vocabulary() -> list[str]:
    """Every word that a caption can contain, lower case and capitalised, in a fixed order."""
    groups = [*COLOR_WORDS.values(), *PLACE_WORDS.values(), *SHAPE_WORDS.values(), *MOTION_WORDS.values()]
    groups += [
        *SIZE_WORDS.values(),
        *WHERE_WORDS.values(),
        *AT_WORDS.values(),
        TEMPLATES,
        TWO_TEMPLATES,
        PLACE_TEMPLATES,
        FILLERS,
    ]
    words = {w for group in groups for text in group for w in text.split() if w.isalpha()}
    return sorted(words | {w.capitalize() for w in words})


def _tidy(text: str, rng: np.random.Generator) -> str:
    text = " ".join(text.split()).replace(" ,", ",").replace(" .", ".")
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


def _invented(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("bcdfghklmnprtvwxz"), size=int(rng.integers(3, 9))))
