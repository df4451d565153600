"""Whole-body models in ONNX: peaks of heatmaps, and the way from a picture to points, on models whose answer is known.

The models made here answer for every point where their input is bright in one colour: point k looks at channel k % 3.
"""

import numpy as np
import pytest

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.coco133 import NAMES
from pasdedeux.animate.preprocess.heatmaps import dark, simcc
from pasdedeux.animate.preprocess.vitpose import VitPose, cut, model_file, sighting, widened

pytest.importorskip("onnxruntime")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
NOSE, LEFT_EYE, RIGHT_EYE = (NAMES.index(name) for name in ("nose", "left_eye", "right_eye"))


def field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protocol buffer: ONNX files are made here by hand, so that nothing else is needed to test them."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def constant(name: str, values: np.ndarray) -> bytes:
    """TensorProto, float32 or int64."""
    dims = b"".join(field(1, side) for side in values.shape)
    return dims + field(2, {"f": 1, "i": 7}[values.dtype.kind]) + field(8, name) + field(9, values.tobytes())


def node(kind: str, inputs: list[str], output: str, **attributes: int | str | list[int]) -> bytes:
    """NodeProto."""
    made = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, value in attributes.items():
        if isinstance(value, list):
            held = b"".join(field(8, number) for number in value) + field(20, 7)
        else:
            held = field(4, value) + field(20, 3) if isinstance(value, str) else field(3, value) + field(20, 2)
        made += field(5, field(1, name) + held)
    return made


def port(name: str, sides: list[int | str]) -> bytes:
    """ValueInfoProto of a float32 array; a side of no fixed length has a name."""
    dims = b"".join(field(1, field(1 if isinstance(side, int) else 2, side)) for side in sides)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def saved(path, nodes, constants, outputs, sides, count):
    """ModelProto of IR version 8, operators of version 17."""
    graph = b"".join(field(1, each) for each in nodes) + field(2, "model")
    graph += b"".join(field(5, constant(name, values)) for name, values in constants.items())
    graph += field(11, port("input", [count, 3, *sides]))
    graph += b"".join(field(12, port(name, shape)) for name, shape in outputs.items())
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17)))
    return path


def bright(points: int) -> dict[str, np.ndarray]:
    """Weights that undo the statistics, so that point k sees its channel as 0..1."""
    channel = np.arange(points) % 3
    weights = np.zeros((points, 3, 1, 1), np.float32)
    weights[range(points), channel] = STD[channel, None, None]
    return {"weights": weights, "bias": MEAN[channel].astype(np.float32)}


def heatmap_model(path, points=133, count="n", sides=(256, 192)):
    """ViTPose's shapes: each heatmap is the input's channel at a quarter of its size, pixel h at input pixel 4 h."""
    nodes = [
        node("Conv", ["input", "weights", "bias"], "bright"),
        node("Slice", ["bright", "starts", "ends", "axes", "steps"], "heatmaps"),
    ]
    slices = {"starts": [0, 0], "ends": [2**31, 2**31], "axes": [2, 3], "steps": [4, 4]}
    constants = bright(points) | {name: np.array(values, np.int64) for name, values in slices.items()}
    return saved(path, nodes, constants, {"heatmaps": [count, points, sides[0] // 4, sides[1] // 4]}, sides, count)


def axes_model(path, sides=(384, 288)):
    """DWPose's shapes: the largest value of each column and row, at twice the input's pixels."""
    nodes = [node("Conv", ["input", "weights", "bias"], "bright")]
    for axis, name in ((2, "across"), (3, "down")):
        way = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
        nodes.append(node("ReduceMax", ["bright"], f"{name}_once", axes=[axis], keepdims=0))
        nodes.append(node("Resize", [f"{name}_once", "", "scales"], name, **way))
    constants = bright(133) | {"scales": np.array([1, 1, 2], np.float32)}
    outputs = {"across": ["n", 133, 2 * sides[1]], "down": ["n", 133, 2 * sides[0]]}
    return saved(path, nodes, constants, outputs, sides, "n")


def spot(size, places, wide):
    """A picture of (width, height) with a soft spot of each colour: places [3, 2] of red, green, blue, `wide` px."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    far = [(x - place[0]) ** 2 + (y - place[1]) ** 2 for place in places]
    return np.rint(np.stack([230 * np.exp(-f / (2 * wide**2)) for f in far], -1)).astype(np.uint8)


def gaussians(places, sigma=2.0, shape=(64, 48)):
    x, y = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]))
    return np.stack([np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * sigma**2)) for a, b in places])[None]


def test_dark_is_unbiased_to_a_twentieth_of_a_pixel():
    places = np.random.default_rng(0).uniform((8, 8), (40, 56), (400, 2))
    found = dark(gaussians(places).astype(np.float32))[0]
    error = found[:, :2] - places
    assert np.abs(error).max() < 0.05
    assert np.abs(error.mean(axis=0)).max() < 0.005
    assert found[:, 2].min() > 0.9
    plain = np.round(places) - places
    assert np.abs(error).mean() < 0.05 * np.abs(plain).mean()


def test_dark_bears_noise_and_stays_near_the_largest_pixel():
    places = np.random.default_rng(1).uniform((8, 8), (40, 56), (200, 2))
    noisy = gaussians(places) + np.random.default_rng(2).normal(0, 0.02, (1, 200, 64, 48))
    assert np.abs(dark(noisy)[0, :, :2] - places).mean() < 0.03
    flat = dark(np.zeros((1, 1, 64, 48)))
    edge = dark(gaussians([(0.2, 63.4)]))
    noise = dark(np.random.default_rng(3).random((1, 50, 64, 48)))
    assert flat[0, 0].tolist() == [0, 0, 0]
    assert np.abs(edge[0, 0, :2] - (0.2, 63.4)).max() < 1
    assert np.isfinite(noise).all()


def test_simcc_reads_both_axes_in_pixels_of_the_input():
    across, down = np.zeros((1, 2, 576)), np.zeros((1, 2, 768))
    across[0, 0, 101], down[0, 0, 40], across[0, 1, 7], down[0, 1, 767] = 0.9, 0.7, 2, 3
    assert simcc(across, down, (288, 384))[0].tolist() == [[50.5, 20, pytest.approx(0.7)], [3.5, 383.5, 2]]


def test_boxes_get_room_and_the_models_shape():
    assert widened((100, 100, 175, 300), (640, 480), 0.75) == (43.75, 75, 231.25, 325)
    assert widened((100, 100, 300, 150), (640, 480), 0.75) == pytest.approx((75, 125 - 500 / 3, 325, 125 + 500 / 3))
    for none in (None, (50.0, 50.0, 55.0, 300.0)):
        left, top, right, bottom = widened(none, (640, 480), 0.75)
        assert (left + right, top + bottom) == (640, 480)
        assert (right - left) / (bottom - top) == pytest.approx(0.75)
        assert right - left == pytest.approx(1.25 * 640)


def test_what_lies_beyond_the_picture_is_black():
    crop = cut(np.full((40, 40, 3), 200, np.uint8), (-20, -20, 60, 60), (40, 40))
    assert (crop[12:28, 12:28] == 200).all()
    assert (crop[:9] == 0).all()
    assert (crop[:, 31:] == 0).all()


BOXES = [
    (200, 100, 350, 400),  # near the model's own size
    (240, 200, 290, 270),  # small: enlarged
    (20, 10, 620, 470),  # large
    (-150, -100, 420, 470),  # off two edges
    (250, 150, 700, 600),  # off the other two
]


@pytest.fixture(scope="module")
def heatmaps(tmp_path_factory):
    return heatmap_model(tmp_path_factory.mktemp("vitpose") / "vitpose_wholebody.onnx")


@pytest.mark.parametrize("box", BOXES)
def test_from_a_picture_to_points_to_half_a_pixel(heatmaps, box):
    left, _, right, _ = widened(box, (640, 480), 0.75)
    places = np.array([[262.3, 231.7], [270.9, 240.2], [255.6, 222.4]])
    picture = spot((640, 480), places, wide=(right - left) / 192 * 8)
    seen = next(iter(VitPose(heatmaps, as_released=False).watch([(picture, box)], 30.0)))
    for index, colour in {0: 0, 15: 1, 14: 2}.items():
        assert np.abs(seen.body[index, :2] - places[colour]).max() < 0.5, (index, colour)
        # The heatmap's largest pixel is up to half a pixel beside the peak, both ways.
        assert 0.9 * np.exp(-0.5 / (2 * 2**2)) - 0.01 < seen.body[index, 2] < 0.91
    assert seen.mask is None


def test_the_released_order_of_colours_is_the_default_and_can_be_had_otherwise(heatmaps):
    places = np.array([[100.0, 150.0], [140.0, 150.0], [120.0, 110.0]])
    picture = spot((240, 256), places, wide=9)
    for as_released, order in ((True, (2, 1, 0)), (False, (0, 1, 2))):
        detector = VitPose(heatmaps, as_released=as_released)
        seen = next(iter(detector.watch([(picture, None)], 30.0)))
        assert np.abs(seen.body[[0, 15, 14], :2] - places[list(order)]).max() < 1
        assert ("bgr" in detector.name) == as_released


@pytest.mark.parametrize("count", ["n", 1, 2])
def test_batches_give_each_frame_its_own_points_in_order(tmp_path, count):
    model = heatmap_model(tmp_path / "vitpose.onnx", count=count)
    places = [(60 + 7 * time, 120 - 3 * time) for time in range(7)]
    frames = [(spot((200, 240), [place] * 3, wide=8), (0, 0, 200, 240)) for place in places]
    taken = []

    def watched():
        for frame in frames:
            taken.append(frame)
            yield frame

    sightings = VitPose(model, batch=3 if count == "n" else 4)
    if count == 2:  # a model for exactly two cannot take the odd one out
        frames.append(frames[-1])
        places.append(places[-1])
    seen = sightings.watch(watched(), 30.0)
    first = next(seen)
    assert len(taken) == (3 if count == "n" else count)
    found = np.array([first.body[0, :2], *(sighting.body[0, :2] for sighting in seen)])
    assert np.abs(found - places).max() < 1


def test_what_lies_outside_the_picture_is_not_seen():
    points = np.tile(np.array([50.0, 40.0, 0.8]), (133, 1))
    points[NAMES.index("left_ankle"), 1] = 100
    points[NAMES.index("right_ankle"), 0] = -1
    points[NAMES.index("left_knee"), 1] = 79.9
    seen = sighting(points, (120, 80))
    assert seen.body[[13, 10, 12], 2].tolist() == pytest.approx([0, 0, 0.8])
    assert seen.body[13, 1] == 100


@pytest.mark.parametrize("box", BOXES[:4])
def test_models_with_two_axes(tmp_path, box):
    model = axes_model(tmp_path / "dw-ll_ucoco_384.onnx")
    left, _, right, _ = widened(box, (640, 480), 288 / 384)
    places = np.array([[262.3, 231.7], [270.9, 240.2], [255.6, 222.4]])
    picture = spot((640, 480), places, wide=(right - left) / 288 * 8)
    detector = VitPose(model)
    seen = next(iter(detector.watch([(picture, box)], 30.0)))
    most = max(0.5, (right - left) / 288 * 0.75)
    assert np.abs(seen.body[[0, 15, 14], :2] - places).max() < most
    assert seen.body[0, 2] == pytest.approx(0.9, abs=0.03)
    assert "bgr" not in detector.name


def test_rtmws_certainty_is_another_and_can_be_said(tmp_path):
    model = axes_model(tmp_path / "rtmw-l.onnx")
    frame = (spot((200, 240), [(100, 120)] * 3, wide=8), None)
    assert next(iter(VitPose(model).watch([frame], 1.0))).body[0, 2] == pytest.approx(0.18, abs=0.01)
    assert next(iter(VitPose(model, top=2).watch([frame], 1.0))).body[0, 2] == pytest.approx(0.45, abs=0.02)


def test_no_frames_are_no_sightings(heatmaps):
    assert list(VitPose(heatmaps).watch([], 30.0)) == []


def test_a_folder_with_one_model_will_do(tmp_path):
    folder = tmp_path / "vitpose_h_wholebody.onnx"
    folder.mkdir()
    with pytest.raises(InputError, match="0 ONNX files"):
        model_file(folder)
    heatmap_model(folder / "other.onnx")
    assert model_file(folder).name == "other.onnx"
    heatmap_model(folder / "end2end.onnx")
    assert model_file(folder).name == "end2end.onnx"
    heatmap_model(folder / "third.onnx")
    assert VitPose(folder).name.startswith("vitpose_h_wholebody.onnx ")


def test_names_tell_models_apart(tmp_path):
    names = {VitPose(heatmap_model(tmp_path / "a.onnx", count=count)).name for count in ("n", "m", 1)}
    assert len(names) == 3


def test_files_that_are_no_whole_body_model(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("text.onnx", "empty.onnx"):
        with pytest.raises(InputError, match="no ONNX model"):
            VitPose(tmp_path / name)
    body = VitPose(heatmap_model(tmp_path / "body.onnx", points=17))
    with pytest.raises(InputError, match=r"17x64x48 a person; .* 133 points"):
        list(body.watch([(np.zeros((64, 64, 3), np.uint8), None)], 1.0))
    with pytest.raises(InputError, match="at least 1"):
        VitPose(tmp_path / "body.onnx", batch=0)


def test_other_sizes_are_read_from_the_model(tmp_path):
    model = heatmap_model(tmp_path / "large.onnx", sides=(384, 288))
    seen = next(iter(VitPose(model).watch([(spot((300, 400), [(140.3, 180.8)] * 3, wide=10), None)], 1.0)))
    assert np.abs(seen.body[0, :2] - (140.3, 180.8)).max() < 0.5
