"""What measuring says about pictures whose contents we know."""

from itertools import product
from random import Random

from PIL import Image

from simpletuner.demo import measure, shapes, zorb


def test_shapes_are_named_as_they_were_drawn() -> None:
    random = Random(0)
    scenes = random.sample(list(shapes.scenes()), 400)

    right = [_shows(shapes.draw(scene, random), scene) for scene in scenes]

    assert sum(right) >= 0.99 * len(right)


def test_no_shape_is_taken_for_a_zorb() -> None:
    random = Random(1)

    assert not any(measure.is_zorb(shapes.draw(scene, random)) for scene in random.sample(list(shapes.scenes()), 400))


def test_zorbs_of_all_colours_are_recognised() -> None:
    random = Random(2)
    for colour, background in product(shapes.COLOURS, shapes.BACKGROUNDS):
        sight = measure.look(zorb.draw_zorb(colour, background, random))

        assert sight == measure.Sight(colour, "zorb", background, "centre")


def test_a_zorb_without_eyes_is_no_zorb() -> None:
    blind = shapes.paint(shapes.outline(zorb.body, centre=(0.5, 0.5), radius=0.3), (214, 40, 40), (245, 245, 245))

    assert not measure.is_zorb(blind)


def test_nothing_is_seen_on_an_empty_background() -> None:
    assert measure.look(Image.new("RGB", (128, 128), shapes.BACKGROUNDS["beige"])) is None


def test_a_smear_has_a_colour_but_no_shape() -> None:
    smear = Image.new("RGB", (128, 128), shapes.BACKGROUNDS["white"])
    smear.paste(shapes.COLOURS["blue"], (10, 60, 30, 80))
    smear.paste(shapes.COLOURS["blue"], (90, 40, 120, 60))

    sight = measure.look(smear)

    assert sight is not None
    assert (sight.colour, sight.shape) == ("blue", "")


def _shows(picture: Image.Image, scene: shapes.Scene) -> bool:
    sight = measure.look(picture)
    return sight is not None and sight.shows(scene)
