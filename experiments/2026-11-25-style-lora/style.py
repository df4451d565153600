"""Night with neon light, as a filter of pictures: the dark is blue, and what had an outline glows in its own colour.

Deterministic and the same for every frame, so that a clip stays as steady as it was.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

DARK = np.array([0.06, 0.05, 0.16], np.float32)
TINT = np.array([0.42, 0.46, 0.86], np.float32)
WARM = np.array([1.0, 0.16, 0.66], np.float32)
COLD = np.array([0.08, 0.88, 1.0], np.float32)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def night(frames: Bytes) -> Bytes:
    """[..., H, W, 3] RGB to the same."""
    flat = frames.reshape(-1, *frames.shape[-3:])
    return np.stack([_night(picture) for picture in flat]).reshape(frames.shape)


def _night(picture: Bytes) -> Bytes:
    x = picture.astype(np.float32) / 255
    soft = cv2.GaussianBlur(x, (0, 0), 1.0)
    luma = soft @ LUMA
    slope = np.hypot(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1))
    glow = cv2.GaussianBlur(np.tanh(1.6 * slope), (0, 0), 1.3)
    warm = 1 / (1 + np.exp(-9 * (cv2.GaussianBlur(x, (0, 0), 2.0) @ np.array([1, 0, -1], np.float32) - 0.06)))
    neon = glow[..., None] * (warm[..., None] * WARM + (1 - warm[..., None]) * COLD)
    dim = DARK + TINT * (0.55 * x + 0.25 * (x @ LUMA)[..., None])
    return np.rint(255 * (1 - (1 - dim.clip(0, 1)) * (1 - neon.clip(0, 1)))).astype(np.uint8)
