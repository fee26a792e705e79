"""Where faces are found, on faces that are drawn here."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, ImageDraw, ImageFilter

from simpletuner.data import faces, images
from simpletuner.data.geometry import Rules, place
from simpletuner.data.items import Box, Size

pytest.importorskip("cv2", reason="faces are found by OpenCV, which is in the extra 'vision'")

WALL = (150, 170, 190)


def face(edge: int) -> Image.Image:
    """A face from the front, which fills the picture."""
    scale = edge / 100
    image = Image.new("RGB", (edge, edge), WALL)
    draw = ImageDraw.Draw(image)

    def oval(left: int, top: int, right: int, bottom: int, colour: tuple[int, int, int]) -> None:
        draw.ellipse([value * scale for value in (left, top, right, bottom)], fill=colour)

    oval(14, 2, 86, 98, (60, 40, 30))
    oval(20, 12, 80, 98, (225, 185, 160))
    for eye in (36, 64):
        oval(eye - 13, 34, eye + 13, 46, (150, 105, 90))
        oval(eye - 8, 38, eye + 8, 47, (70, 50, 45))
        draw.rectangle([value * scale for value in (eye - 7, 33, eye + 7, 36)], fill=(70, 45, 35))
    oval(46, 36, 54, 66, (240, 205, 180))
    oval(42, 60, 58, 67, (190, 140, 120))
    oval(36, 73, 64, 82, (150, 60, 60))
    return image.filter(ImageFilter.GaussianBlur(1.6 * scale))


def picture(*faces_at: tuple[int, int, int], size: tuple[int, int] = (900, 600)) -> Image.Image:
    """A wall with faces: each one's left, top and edge."""
    image = Image.new("RGB", size, WALL)
    for left, top, edge in faces_at:
        image.paste(face(edge), (left, top))
    return image


def is_near(box: Box | None, left: int, top: int, edge: int) -> bool:
    assert box is not None
    middle = box.left + box.width / 2 - left - edge / 2, box.top + box.height / 2 - top - edge / 2
    return max(map(abs, middle)) < edge * 0.15 and edge * 0.6 < box.width < edge * 1.2


@pytest.mark.parametrize(("left", "top", "edge"), [(500, 200, 200), (10, 20, 100), (780, 470, 120)])
def test_a_face_is_found_where_it_is(left: int, top: int, edge: int) -> None:
    assert is_near(faces.find(picture((left, top, edge))), left, top, edge)


def test_the_largest_face_is_taken() -> None:
    assert is_near(faces.find(picture((50, 50, 100), (500, 200, 220))), 500, 200, 220)


def test_a_large_picture_gives_a_box_in_its_own_pixels() -> None:
    box = faces.find(picture((500, 200, 200)).resize((3600, 2400)))
    assert is_near(box, 2000, 800, 800)


def test_a_wall_has_no_face() -> None:
    assert faces.find(picture()) is None


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (24, 24)])
def test_pictures_too_small_for_a_face_have_none(size: tuple[int, int]) -> None:
    assert faces.find(picture(size=size)) is None


def test_every_thread_finds_the_same_face() -> None:
    image = picture((500, 200, 200), (50, 50, 100))
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(faces.find, [image] * 12))
    assert found == {faces.find(image)}


def test_a_crop_keeps_the_face_that_the_middle_would_lose() -> None:
    image = picture((650, 250, 240))
    rules = Rules(192, crop=True, crop_style="face")
    cropped = images.apply(image, place(Size(*image.size), rules, face=faces.find(image)))
    assert cropped.size == (192, 192)
    assert is_near(faces.find(cropped), 112, 80, 77)


WITHOUT_OPENCV = """
import sys
sys.modules["cv2"] = None
from PIL import Image
from simpletuner.data import faces
from simpletuner.errors import DataError
try:
    faces.find(Image.new("RGB", (64, 64)))
except DataError as error:
    print(error)
"""


def test_without_opencv_the_error_says_how_to_get_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_OPENCV], capture_output=True, text=True, check=True)
    assert "pip install 'simpletuner[vision]'" in done.stdout
    assert faces.unavailable() is None
