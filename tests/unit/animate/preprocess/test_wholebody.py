"""COCO-WholeBody's 133 points and ours; keypoints as data, our own and others', and files that are no use."""

import json
import math
import pickle

import numpy as np
import pytest

from pasdedeux.animate.inputs import InputError, Keypoints, View
from pasdedeux.animate.preprocess.coco133 import NAMES, SKELETON
from pasdedeux.animate.preprocess.wholebody import from_wholebody, load_keypoints, save_keypoints, to_wholebody

SIZE = (256, 192)
# COCO-WholeBody's names for our body points; the neck and the toes are made of two.
ARM, LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
LIMBS = [f"{side}_{part}" for limb in (ARM, LEG) for side in ("right", "left") for part in limb]
COCO = {0: "nose"} | dict(enumerate([*LIMBS, "right_eye", "left_eye", "right_ear", "left_ear"], start=2))


def scattered(frames: int = 3, seed: int = 0) -> Keypoints:
    """Everything somewhere, all different, necks and pupils included."""
    draw = np.random.default_rng(seed)

    def points(*shape: int) -> np.ndarray:
        return np.concatenate([draw.uniform(10, 150, (*shape, 2)), draw.uniform(0.1, 1, (*shape, 1))], -1).astype(
            np.float32
        )

    return Keypoints(body=points(frames, 20), hands=points(frames, 2, 21), face=points(frames, 70), size=SIZE)


def same(a: Keypoints, b: Keypoints, atol: float = 0.0) -> bool:
    parts = ("body", "hands", "face")
    return a.size == b.size and all(np.allclose(getattr(a, p), getattr(b, p), rtol=0, atol=atol) for p in parts)


def test_every_point_goes_where_its_name_says():
    assert len(NAMES) == len(set(NAMES)) == 133
    ours = scattered()
    points = to_wholebody(ours)
    for index, name in COCO.items():
        assert (points[:, NAMES.index(name)] == ours.body[:, index]).all(), name
    for name, index in {"left_big_toe": 18, "left_small_toe": 18, "right_big_toe": 19, "right_small_toe": 19}.items():
        assert (points[:, NAMES.index(name)] == ours.body[:, index]).all(), name
    for name in ("left_heel", "right_heel"):
        assert (points[:, NAMES.index(name)] == 0).all()
    assert (points[:, NAMES.index("face-0") :][:, :68] == ours.face[:, :68]).all()
    assert (points[:, NAMES.index("left_hand_root") :][:, :21] == ours.hands[:, 0]).all()
    assert (points[:, NAMES.index("right_hand_root") :] == ours.hands[:, 1]).all()


def test_a_skeleton_joins_points_of_one_side():
    for a, b in SKELETON:
        sides = {name.split("_")[0] for name in (NAMES[a], NAMES[b])} & {"left", "right"}
        part = {name.split("_")[-1] for name in (NAMES[a], NAMES[b])}
        assert len(sides) < 2 or part in ({"hip"}, {"shoulder"}, {"eye"}), (NAMES[a], NAMES[b])


def test_a_round_trip_keeps_what_both_can_hold():
    ours = scattered()
    back = from_wholebody(to_wholebody(ours), SIZE)
    kept = [*COCO, 18, 19]
    assert np.allclose(back.body[:, kept], ours.body[:, kept], atol=1e-5)
    assert (back.hands == ours.hands).all()
    assert (back.face[:, :68] == ours.face[:, :68]).all()
    there = to_wholebody(back)
    assert np.allclose(there, to_wholebody(ours), atol=1e-5)


def test_what_133_lack_is_made_of_what_they_have():
    points = np.zeros((1, 133, 3), np.float32)
    points[0, NAMES.index("left_shoulder")], points[0, NAMES.index("right_shoulder")] = (100, 50, 0.9), (60, 40, 0.6)
    points[0, NAMES.index("left_big_toe")], points[0, NAMES.index("left_small_toe")] = (10, 20, 0.9), (20, 30, 0.7)
    points[0, NAMES.index("right_big_toe")], points[0, NAMES.index("right_small_toe")] = (10, 20, 0.2), (20, 30, 0.7)
    points[0, NAMES.index("face-36") : NAMES.index("face-42")] = [(x, x + 1, 1) for x in range(6)]
    found = from_wholebody(points, SIZE)
    assert found.body[0, 1] == pytest.approx((80, 45, 0.6))
    assert found.body[0, 18] == pytest.approx((15, 25, 0.7))
    assert found.body[0, 19] == pytest.approx((20, 30, 0.7))
    assert found.face[0, 68] == pytest.approx((2.5, 3.5, 1))
    assert found.face[0, 69, 2] == 0


def test_confidences_beyond_one_are_cut_and_other_shapes_refused():
    points = np.full((2, 133, 3), 1.2, np.float32)
    assert from_wholebody(points, SIZE).body[..., 2].max() == 1
    with pytest.raises(InputError, match="133"):
        from_wholebody(points[:, :17], SIZE)


@pytest.mark.parametrize("name", ["a.npz", "a.json", ""])
def test_our_files_give_back_what_they_were_given(tmp_path, name):
    ours = scattered()
    written = save_keypoints(tmp_path / name, ours, 29.97)
    assert [path.name for path in written] == ([name] if name else ["keypoints.npz", "keypoints.json"])
    for path in (tmp_path / name, *written):
        found, fps = load_keypoints(path)
        assert fps == 29.97
        assert same(found, ours, 0.0 if path.suffix != ".json" else 0.006)


def test_a_file_without_a_rate_says_none_and_a_view_is_kept(tmp_path):
    ours = scattered().moved((1, 1), (0, 0), SIZE)
    seen = Keypoints(body=ours.body, hands=ours.hands, face=ours.face, size=SIZE, view=View(1.5, 2.5, 3.5))
    for path in save_keypoints(tmp_path, seen):
        found, fps = load_keypoints(path)
        assert fps is None
        assert found.view == View(1.5, 2.5, 3.5)


def test_the_arrays_and_the_text_can_be_used_without_us(tmp_path):
    ours = scattered()
    save_keypoints(tmp_path, ours, 25)
    with np.load(tmp_path / "keypoints.npz", allow_pickle=False) as arrays:
        assert arrays["wholebody"].shape == (3, 133, 3)
        assert tuple(arrays["names"]) == NAMES
        assert tuple(arrays["size"]) == SIZE
    data = json.loads((tmp_path / "keypoints.json").read_text())
    assert data["categories"][0]["keypoints"] == list(NAMES)
    assert max(max(pair) for pair in data["categories"][0]["skeleton"]) <= 133
    assert min(min(pair) for pair in data["categories"][0]["skeleton"]) == 1
    assert [frame["image_id"] for frame in data["annotations"]] == [0, 1, 2]
    assert all(len(frame["keypoints"]) == 399 for frame in data["annotations"])
    assert data["annotations"][1]["keypoints"][:2] == pytest.approx(ours.body[1, 0, :2], abs=0.006)
    assert data["images"][2] == {"id": 2, "file_name": "2", "width": 256, "height": 192}


def test_arrays_of_133_and_of_17_points(tmp_path):
    ours = scattered()
    np.save(tmp_path / "a.npy", to_wholebody(ours))
    found, fps = load_keypoints(tmp_path / "a.npy", size=SIZE)
    assert fps is None
    assert np.allclose(to_wholebody(found), to_wholebody(ours), atol=1e-5)
    points = to_wholebody(ours)[:, :17]
    np.savez(tmp_path / "b.npz", keypoints=points[..., :2].astype(np.float64), scores=points[..., 2], fps=24.0)
    found, fps = load_keypoints(tmp_path / "b.npz", size=SIZE)
    assert fps == 24
    assert np.allclose(to_wholebody(found)[:, :17], points, atol=1e-5)
    assert found.face[..., 2].max() == found.hands[..., 2].max() == found.body[:, [18, 19], 2].max() == 0


def openpose(ours: Keypoints, frame: int, count: int = 18) -> dict[str, object]:
    """One person of a frame as OpenPose writes them: places of points that are not seen are 0."""
    body = ours.body[frame, :18]
    if count == 25:
        middle = ours.body[frame, [8, 11]].mean(axis=0, keepdims=True)
        toes = ours.body[frame, [18, 18, 13, 19, 19, 10]]
        body = np.concatenate([body[:8], middle, body[8:], toes])
    return {
        "pose_keypoints_2d": body.ravel().tolist(),
        "hand_left_keypoints_2d": ours.hands[frame, 0].ravel().tolist(),
        "hand_right_keypoints_2d": ours.hands[frame, 1].ravel().tolist(),
        "face_keypoints_2d": ours.face[frame].ravel().tolist(),
    }


@pytest.mark.parametrize("count", [18, 25])
def test_a_folder_of_openpose_files_in_the_order_of_their_numbers(tmp_path, count):
    ours = scattered(12)
    for frame in (*range(5), *range(6, 12)):
        people = {"version": 1.3, "people": [openpose(ours, frame, count)]}
        (tmp_path / f"clip_{frame}_keypoints.json").write_text(json.dumps(people))
    found, fps = load_keypoints(tmp_path, size=SIZE)
    assert fps is None
    assert len(found) == 12
    there = [i for i in range(12) if i != 5]
    upto = 20 if count == 25 else 18
    assert np.allclose(found.body[there, :upto], ours.body[there, :upto], atol=1e-4)
    assert np.allclose(found.hands[there], ours.hands[there], atol=1e-4)
    assert np.allclose(found.face[there], ours.face[there], atol=1e-4)
    assert found.body[5, :, 2].max() == found.hands[5, ..., 2].max() == 0


def test_controlnets_list_says_its_picture_and_may_hold_shares(tmp_path):
    ours = scattered()
    pixels = [{"people": [openpose(ours, i)], "canvas_width": 256, "canvas_height": 192} for i in range(3)]
    pixels[1]["people"][0]["hand_left_keypoints_2d"] = None
    (tmp_path / "a.json").write_text(json.dumps(pixels))
    found, _ = load_keypoints(tmp_path / "a.json")
    assert found.size == SIZE
    assert np.allclose(found.body[:, :18], ours.body[:, :18], atol=1e-4)
    assert found.hands[1, 0, :, 2].max() == 0
    assert found.hands[1, 1, :, 2].min() > 0
    shares = ours.scaled((1, 1))
    (tmp_path / "b.json").write_text(json.dumps([{"people": [openpose(shares, i)]} for i in range(3)]))
    found, _ = load_keypoints(tmp_path / "b.json", size=SIZE)
    assert np.allclose(found.body[:, :18], ours.body[:, :18], atol=1e-3)


def test_candidates_and_subsets(tmp_path):
    ours = scattered(1)
    body = ours.body[0, :18, :2].tolist()
    subset = [*range(18)]
    subset[4] = -1
    frame = {
        "bodies": {"candidate": body, "subset": [subset]},
        "hands": [ours.hands[0, 0, :, :2].tolist(), [[-1, -1]] * 21],
        "faces": [ours.face[0, :68, :2].tolist()],
    }
    (tmp_path / "a.json").write_text(json.dumps(frame))
    found, _ = load_keypoints(tmp_path / "a.json", size=SIZE)
    assert np.allclose(found.body[0, 5:18, :2], ours.body[0, 5:18, :2], atol=1e-4)
    assert found.body[0, 4, 2] == 0
    assert found.body[0, 5, 2] == found.hands[0, 0, 0, 2] == found.face[0, 0, 2] == 1
    assert found.hands[0, 1, :, 2].max() == 0


def test_cocos_results_with_17_and_with_133_points(tmp_path):
    ours = scattered()
    points = to_wholebody(ours)
    apart = [
        {"image_id": i + 1, "category_id": 1, "score": 1, "keypoints": points[i, :17].ravel().tolist()}
        | {"foot_kpts": points[i, 17:23].ravel().tolist(), "face_kpts": points[i, 23:91].ravel().tolist()}
        | {"lefthand_kpts": points[i, 91:112].ravel().tolist(), "righthand_kpts": points[i, 112:].ravel().tolist()}
        for i in (2, 0, 1)
    ]
    whole = [{"image_id": f"{i:06d}.jpg", "keypoints": points[i].ravel().tolist()} for i in range(3)]
    for name, record in {"apart": apart, "whole": whole}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
        found, _ = load_keypoints(tmp_path / f"{name}.json", size=SIZE)
        assert np.allclose(to_wholebody(found), points, atol=1e-4), name
    body = [{"image_id": i, "keypoints": points[i, :17].ravel().tolist()} for i in range(3)]
    (tmp_path / "body.json").write_text(json.dumps(body))
    found, _ = load_keypoints(tmp_path / "body.json", size=SIZE)
    assert np.allclose(to_wholebody(found)[:, :17], points[:, :17], atol=1e-4)


def test_mmposes_predictions(tmp_path):
    points = to_wholebody(scattered())
    frames = [
        {"frame_id": i, "instances": [{"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist()}]}
        for i, p in enumerate(points)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"meta_info": {}, "instance_info": frames}))
    found, _ = load_keypoints(tmp_path / "a.json", size=SIZE)
    assert np.allclose(to_wholebody(found), points, atol=1e-4)


def crossing() -> np.ndarray:
    """[T, 2, 17, 3]: a large person who walks right and a small one who walks left, who change places in the list."""
    outline = np.stack([np.linspace(0, 1, 17), np.linspace(0, 1, 17) ** 2, np.ones(17)], -1)
    frames = []
    for time in range(10):
        large, small = (outline * (side, side, 1) + (x, 20, 0) for side, x in ((100, 5 * time), (40, 150 - 5 * time)))
        frames.append([small, large] if time % 2 else [large, small])
    return np.array(frames)


def test_one_of_several_people_is_followed(tmp_path):
    np.save(tmp_path / "a.npy", crossing())
    for person, start, step in ((None, 0, 5), (1, 0, 5), (2, 150, -5)):
        found, _ = load_keypoints(tmp_path / "a.npy", size=SIZE, person=person)
        assert found.body[:, 0, 0] == pytest.approx([start + step * time for time in range(10)], abs=1e-4)
    with pytest.raises(InputError, match="at most 2 people"):
        load_keypoints(tmp_path / "a.npy", size=SIZE, person=3)


def test_somebody_who_was_gone_is_found_again_and_nobody_takes_their_place(tmp_path):
    outline = np.stack([np.linspace(0, 40, 17), np.linspace(0, 40, 17), np.ones(17)], -1)
    other, nobody = outline * (2, 2, 1) + (150, 60, 0), np.zeros((17, 3))
    frames = [[outline, other], *[[nobody, other]] * 8, [outline + (70, 0, 0), other]]
    np.save(tmp_path / "a.npy", np.array(frames))
    found, _ = load_keypoints(tmp_path / "a.npy", size=SIZE, person=1)
    assert found.body[1:9, :, 2].max() == 0
    assert found.body[[0, 9], 15, 2].tolist() == [1, 1]
    assert found.body[9, 0, :2].tolist() == [70, 0]


def written(folder, name, content):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    else:
        np.savez(path, **content)
    return path


def whole(value: float, column: int = 0) -> np.ndarray:
    points = np.ones((2, 133, 3))
    points[1, 7, column] = value
    return points


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


HOSTILE = {
    "nan.npy": whole(math.nan),
    "infinite.npy": whole(math.inf),
    "far.npy": whole(1e9),
    "negative.npy": whole(-0.5, 2),
    "nan_sure.npy": whole(math.nan, 2),
    "none.npy": np.zeros((0, 133, 3)),
    "count.npy": np.ones((2, 40, 3)),
    "flat.npy": np.ones((2, 133)),
    "four.npy": np.ones((2, 133, 4)),
    "places.npy": np.ones((2, 133, 2)),
    "text.npy": np.full((2, 133, 3), "a"),
    "objects.npy": np.array([_Bomb()], dtype=object),
    "objects.npz": {"keypoints": np.array([_Bomb()], dtype=object)},
    "size.npz": {"body": np.ones((1, 20, 3), np.float32), "size": np.array([1, 2, 3])},
    "other.npz": {"weights": np.ones(3)},
    "scores.npz": {"keypoints": np.ones((2, 133, 2)), "scores": np.ones((2, 17))},
    "zip.npz": b"PK\x03\x04 and then nothing",
    "pickle.npy": pickle.dumps(_Bomb()),
    "empty.json": b"",
    "cut.json": '[{"people": [',
    "deep.json": "[" * 100_000,
    "number.json": "7",
    "list.json": "[]",
    "strings.json": '["a"]',
    "nobody.json": '[{"people": []}]',
    "words.json": '[{"people": [{"pose_keypoints_2d": ["a", "b", "c"]}]}]',
    "thirds.json": '[{"people": [{"pose_keypoints_2d": [1, 2]}]}]',
    "points.json": json.dumps([{"people": [{"pose_keypoints_2d": [1.0] * 99}]}]),
    "notnumber.json": json.dumps([{"people": [{"pose_keypoints_2d": [math.nan] * 54}]}]),
    "hand.json": json.dumps([{"people": [{"pose_keypoints_2d": [1.0] * 54, "hand_left_keypoints_2d": [1.0] * 9}]}]),
    "people.json": '[{"people": 5}]',
    "canvas.json": json.dumps(
        [{"people": [{"pose_keypoints_2d": [1.0] * 54}], "canvas_width": -1, "canvas_height": 5}]
    ),
    "subset.json": json.dumps({"candidate": [[1, 2]], "subset": [[5] * 18]}),
    "half.json": json.dumps({"candidate": [[1, 2]], "subset": [[0.5] * 18]}),
    "twice.json": json.dumps([{"image_id": i, "keypoints": [1.0] * 51} for i in ("1", "01")]),
    "gaps.json": json.dumps([{"image_id": i, "keypoints": [1.0] * 51} for i in (1, 10**17)]),
    "huge.json": json.dumps([{"image_id": 1, "keypoints": [10**400] * 51}]),
    "ours.json": json.dumps({"info": {"description": "pasdedeux keypoints"}, "annotations": []}),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("error")
def test_a_file_that_is_no_use_is_one_sentence(tmp_path, name):
    path = written(tmp_path, name, HOSTILE[name])
    with pytest.raises(InputError) as caught:
        load_keypoints(path, size=SIZE)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_an_unknown_picture_a_missing_file_and_an_empty_folder(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 133, 3)) * (50, 50, 1))
    with pytest.raises(InputError, match="how large the picture is"):
        load_keypoints(tmp_path / "a.npy")
    with pytest.raises(InputError, match="There is no file"):
        load_keypoints(tmp_path / "b.npy")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="no JSON file"):
        load_keypoints(tmp_path / "folder")


def test_points_that_were_not_found_may_be_written_in_any_way(tmp_path):
    points = np.ones((2, 133, 3)) * (50, 60, 1)
    points[0, 9], points[0, 10] = (math.nan, math.nan, 0), (-1, -1, -1)
    np.save(tmp_path / "a.npy", points)
    found, _ = load_keypoints(tmp_path / "a.npy", size=SIZE)
    assert found.body[0, [7, 4]].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert found.body[1, 7].tolist() == [50, 60, 1]
