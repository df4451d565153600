"""Names and order of every labelled point of a puppet: body (20), hands (2 x 21) and face (70)."""

from typing import Final

BODY_NAMES: Final = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear", "left_toe", "right_toe",
)  # fmt: skip
BODY: Final = {name: index for index, name in enumerate(BODY_NAMES)}

ANATOMY: Final = {
    "right_arm": (2, 3, 4),
    "left_arm": (5, 6, 7),
    "right_leg": (8, 9, 10, 19),
    "left_leg": (11, 12, 13, 18),
}

HAND_POINTS: Final = 21
FACE_POINTS: Final = 70
JAW: Final = slice(0, 17)
BROWS: Final = (slice(17, 22), slice(22, 27))
NOSE: Final = slice(27, 36)
EYES: Final = (slice(36, 42), slice(42, 48))
LIPS_OUTER: Final = slice(48, 60)
LIPS_INNER: Final = slice(60, 68)
PUPILS: Final = (68, 69)

RIGHT, LEFT = 0, 1
SIDES: Final = (-1.0, 1.0)
"""Sign of x for the subject's right and left: facing us, the subject's right is at the picture's left."""
