"""Carry a character's picture to a performer's pose: each body part of the reference, moved by its own bone.

The pixels of the character are shared out among the parts of the body by distance to the bones; each part is moved
by the similarity that takes its bone in the reference to its bone in the performance, lengthened along the bone where
the two differ; the parts are laid over each other, far ones first. The result is rough: joints crack, hidden sides
are missing, light is wrong. It tells the denoisers where each colour of the character belongs, so that they need not
learn to look it up; putting it right is their work.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]
Bytes = NDArray[np.uint8]

NECK, R_SHOULDER, L_SHOULDER, R_HIP, L_HIP = 1, 2, 5, 8, 11
HEAD = (0, 14, 15, 16, 17)
EARS = [16, 17]
RIGID = np.array([27, 28, 29, 30, 33, 36, 39, 42, 45])
"""Points of the face that expressions do not move: bridge and base of the nose, corners of the eyes."""
FEATURES = np.array([17, 19, 21, 22, 24, 26, 30, 36, 37, 39, 41, 42, 44, 45, 46, 48, 51, 54, 57, 62, 66, 68, 69])
"""Points of the face by which its features are moved: brows, nose, lids and corners of the eyes, lips, pupils."""
MISSING = 0.05
"""Joints of lower confidence are not used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bone:
    """A body part: the joints of its axis, its half-width in units of the torso, and how far it reaches past `b`."""

    name: str
    a: int
    b: int
    width: float
    beyond: float = 0.0


BONES = (
    Bone(name="right foot", a=10, b=19, width=0.18, beyond=0.3),
    Bone(name="left foot", a=13, b=18, width=0.18, beyond=0.3),
    Bone(name="right shin", a=9, b=10, width=0.2),
    Bone(name="left shin", a=12, b=13, width=0.2),
    Bone(name="right thigh", a=8, b=9, width=0.24),
    Bone(name="left thigh", a=11, b=12, width=0.24),
    Bone(name="right upper arm", a=2, b=3, width=0.18),
    Bone(name="left upper arm", a=5, b=6, width=0.18),
    Bone(name="right forearm", a=3, b=4, width=0.17, beyond=0.6),
    Bone(name="left forearm", a=6, b=7, width=0.17, beyond=0.6),
)
LEGS, ARMS = BONES[:6], BONES[6:]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A character taken apart: premultiplied RGBA float32 [H, W, 4] per part name, its pose, and its head's points."""

    pieces: dict[str, Bytes]
    body: Float
    face: Float
    unit: float


def torso_length(body: Float) -> float:
    """Distance from the neck to the middle of the hips, in pixels; at least one."""
    return max(float(np.linalg.norm(body[NECK, :2] - (body[R_HIP, :2] + body[L_HIP, :2]) / 2)), 1.0)


def segment_distance(points: Float, a: Float, b: Float) -> Float:
    """Distance [N] of points [N, 2] to the segment from a to b."""
    axis = b - a
    along = np.clip((points - a) @ axis / max(float(axis @ axis), 1e-6), 0, 1)
    return np.linalg.norm(points - a - along[:, None] * axis, axis=1).astype(np.float32)


def head_axis(body: Float, points: list[int]) -> tuple[Float, Float]:
    """From the neck through the middle of `points`, as far again: roughly to the top of the head.

    Without points the head is taken to sit straight on the trunk, half as long.
    """
    neck, hips = body[NECK, :2], (body[R_HIP, :2] + body[L_HIP, :2]) / 2
    middle = body[points, :2].mean(0) if points else neck + 0.4 * (neck - hips)
    return neck + 0.35 * (middle - neck), neck + 1.6 * (middle - neck)


def head_points(*bodies: Float) -> list[int]:
    """Nose, eyes and ears that are seen in every one of `bodies`."""
    return [i for i in HEAD if all(body[i, 2] > MISSING for body in bodies)]


def take_apart(image: Bytes, mask: Bytes, body: Float, face: Float) -> Parts:
    """Share the person's pixels out among head, torso and limbs, by distance to the bones in units of their width.

    `image` [H, W, 3], `mask` [H, W] (255 = person), `body` [20, 3] and `face` [70, 3] in pixels of the image.
    """
    unit = torso_length(body)
    rows, columns = np.nonzero(mask > 8)
    points = np.stack([columns, rows], axis=1).astype(np.float32)
    names, distances = (
        ["torso", "head"],
        [_torso_distance(points, body, unit), _head_distance(points, body, unit)],
    )
    for bone in BONES:
        if min(body[bone.a, 2], body[bone.b, 2]) > MISSING:
            a, b = body[bone.a, :2], body[bone.b, :2]
            distances.append(segment_distance(points, a, b + bone.beyond * (b - a)) / (bone.width * unit))
            names.append(bone.name)
    owner = np.argmin(np.stack(distances), axis=0)
    rgba = np.dstack([image, np.full(mask.shape, 255, np.uint8)]).astype(np.float32) * (mask[..., None] / 255.0)
    pieces = {}
    for i, name in enumerate(names):
        own = np.zeros(mask.shape, np.uint8)
        own[rows[owner == i], columns[owner == i]] = 255
        grown = cv2.dilate(own, np.ones((3, 3), np.uint8))
        pieces[name] = (rgba * (grown[..., None] > 0)).astype(np.uint8)
    return Parts(pieces=pieces, body=body, face=face, unit=unit)


def _torso_distance(points: Float, body: Float, unit: float) -> Float:
    """To the trunk, a thick bone from below the neck to between the hips, as wide as the shoulders."""
    hips = (body[R_HIP, :2] + body[L_HIP, :2]) / 2
    wide = max(float(np.linalg.norm(body[R_SHOULDER, :2] - body[L_SHOULDER, :2])), 0.5 * unit)
    start = body[NECK, :2] + 0.2 * (hips - body[NECK, :2])
    return segment_distance(points, start, hips) / np.float32(0.5 * wide)


def _head_distance(points: Float, body: Float, unit: float) -> Float:
    """To the head's axis; hair and hats are wide."""
    a, b = head_axis(body, head_points(body))
    return segment_distance(points, a, b) / np.float32(max(0.5 * unit, 0.4 * float(np.linalg.norm(b - a))))


def along_bone(a: Float, b: Float, a2: Float, b2: Float, scale: float) -> Float:
    """Affine [2, 3] taking bone (a, b) to (a2, b2): `scale` across the bone, and along it what its length asks."""
    old, new = b - a, b2 - a2
    length, length2 = max(float(np.linalg.norm(old)), 1e-3), max(float(np.linalg.norm(new)), 1e-3)
    u, w = old / length, new / length2
    along = np.clip(length2 / length, 0.15 * scale, 3 * scale)
    turn = along * np.outer(w, u) + scale * np.outer([-w[1], w[0]], [-u[1], u[0]])
    return np.hstack([turn, (a2 - turn @ a)[:, None]]).astype(np.float32)


def _turning(old: Float, new: Float) -> float:
    """Angle in radians that best turns points old [N, 2] into new, about their middles (Umeyama 1991)."""
    p, q = old - old.mean(0), new - new.mean(0)
    return float(np.arctan2((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum(), (p * q).sum()))


def _torso_map(old: Float, new: Float, scale: float) -> Float:
    """The trunk follows neck and hips along its length, and the shoulders' and hips' breadth across."""
    hips, hips2 = (old[R_HIP, :2] + old[L_HIP, :2]) / 2, (new[R_HIP, :2] + new[L_HIP, :2]) / 2
    axis = new[NECK, :2] - hips2
    across = np.array([axis[1], -axis[0]]) / max(float(np.linalg.norm(axis)), 1e-3)

    def breadth(body: Float, side: Float | NDArray[np.float64]) -> float:
        return abs(float((body[L_SHOULDER, :2] - body[R_SHOULDER, :2]) @ side))

    old_axis = old[NECK, :2] - hips
    old_across = np.array([old_axis[1], -old_axis[0]]) / max(float(np.linalg.norm(old_axis)), 1e-3)
    ratio = breadth(new, across) / max(breadth(old, old_across), 1.0)
    return along_bone(hips, old[NECK, :2], hips2, new[NECK, :2], float(np.clip(ratio, 0.6 * scale, 1.3 * scale)))


def _head_map(parts: Parts, body: Float, face: Float, scale: float) -> Float:
    """The head turns by the face's angle where it is seen, else by half that of nose, eyes and ears.

    It is placed by the middle of the ears, which stays the middle of a head however it turns, or by the neck. Its
    size is the character's: features draw together when a head turns away, but its outline does not.
    """
    seen = RIGID[np.minimum(parts.face[RIGID, 2], face[RIGID, 2]) > MISSING]
    # Not the jaw: it is foreshortened in a head that turns, and would turn it over.
    if len(seen) >= 5:
        angle = _turning(parts.face[seen, :2], face[seen, :2])
    else:
        shared = head_points(parts.body, body)
        (a, b), (a2, b2) = head_axis(parts.body, shared), head_axis(body, shared)
        (x, y), (x2, y2) = b - a, b2 - a2
        angle = 0.5 * float(np.arctan2(x * y2 - y * x2, x * x2 + y * y2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = scale * np.array([[cos, -sin], [sin, cos]])
    pivot = EARS if min(parts.body[EARS, 2].min(), body[EARS, 2].min()) > MISSING else [NECK]
    place = body[pivot, :2].mean(0) - turn @ parts.body[pivot, :2].mean(0)
    return np.hstack([turn, place[:, None]]).astype(np.float32)


def _move_features(head: Bytes, placed: Float, face: Float, rim: Float) -> Bytes:
    """Bend the placed head [H, W, 4] so that its features go from `placed` [N, 2] to `face` [N, 2].

    Displacements are spread by inverse distance (Shepard 1968, power 3); points of the `rim` [M, 2] stay.
    """
    x, y, w, h = cv2.boundingRect(head[..., 3])
    if not w or not h or not len(face):
        return head
    columns, rows = np.meshgrid(np.arange(x, x + w, dtype=np.float32), np.arange(y, y + h, dtype=np.float32))
    ends = np.concatenate([face, rim]).astype(np.float32)
    shift = np.concatenate([placed - face, np.zeros_like(rim)]).astype(np.float32)
    near = ((columns[..., None] - ends[:, 0]) ** 2 + (rows[..., None] - ends[:, 1]) ** 2 + 1) ** -1.5
    source = np.dstack([columns, rows]) + (near @ shift) / near.sum(-1, keepdims=True)
    bent = head.copy()
    bent[y : y + h, x : x + w] = cv2.remap(
        head, source[..., 0].astype(np.float32), source[..., 1].astype(np.float32), cv2.INTER_LINEAR
    )
    return bent


def _rim(face: Float) -> Float:
    """[34, 2]: the jaw, and its mirror image over the forehead."""
    jaw = face[:17, :2]
    return np.concatenate([jaw, jaw[0] + jaw[16] - jaw])


def maps(parts: Parts, body: Float, face: Float, scale: float) -> dict[str, Float]:
    """Affine map of each part that is there, in the order in which they are laid: legs, trunk, head, arms."""
    found: dict[str, Float] = {}

    def lay(bones: tuple[Bone, ...]) -> None:
        for bone in bones:
            seen = min(body[bone.a, 2], body[bone.b, 2]) > MISSING
            if seen and bone.name in parts.pieces:
                ends = (parts.body[bone.a, :2], parts.body[bone.b, :2], body[bone.a, :2], body[bone.b, :2])
                found[bone.name] = along_bone(*ends, scale)

    facing = body[L_SHOULDER, 0] >= body[R_SHOULDER, 0]
    lay(LEGS)
    if not facing:
        lay(ARMS)
    found["torso"] = _torso_map(parts.body, body, scale)
    found["head"] = _head_map(parts, body, face, scale)
    if facing:
        lay(ARMS)
    return found


def carry(parts: Parts, body: Float, face: Float, scale: float = 1.0) -> Bytes:
    """The character in the pose `body` [20, 3], `face` [70, 3]: premultiplied RGBA [H, W, 4].

    `scale` is the size of the character in the performance over its size in the reference.
    """
    height, width = next(iter(parts.pieces.values())).shape[:2]
    canvas = np.zeros((height, width, 4), np.float32)
    for name, affine in maps(parts, body, face, scale).items():
        piece = cv2.warpAffine(parts.pieces[name], affine, (width, height), flags=cv2.INTER_LINEAR).astype(np.uint8)
        if name == "head":
            seen = FEATURES[np.minimum(parts.face[FEATURES, 2], face[FEATURES, 2]) > MISSING]
            placed, rim = (p @ affine[:, :2].T + affine[:, 2] for p in (parts.face[seen, :2], _rim(parts.face)))
            piece = _move_features(piece, placed, face[seen, :2], rim)
        x, y, w, h = cv2.boundingRect(piece[..., 3])
        if w and h:
            window, inside = canvas[y : y + h, x : x + w], piece[y : y + h, x : x + w]
            window *= 1 - inside[..., 3:] * np.float32(1 / 255)
            window += inside
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
