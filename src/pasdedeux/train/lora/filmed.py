"""Clips for the built-in pair: those that were filmed already, or any videos, looked through and drawn like them.

A video's first frame is the character's picture. Where an item names a driver, the conditions are the driver's and the
video is only what is to come out: so a pair learns a style from clips and their styled copies.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pasdedeux.animate.condition.duet import draw_planes, still_scene
from pasdedeux.animate.inputs import CharacterImage, InputError, Keypoints
from pasdedeux.animate.prepared import Wanted
from pasdedeux.animate.prepared_cache import PreparedCache
from pasdedeux.animate.preparing import prepare
from pasdedeux.checkpoints.folder import Manifest
from pasdedeux.train.clips import StoredClip, is_filmed, write_clip
from pasdedeux.train.lora.cache import Cache
from pasdedeux.train.lora.dataset import Item
from pasdedeux.train.lora.ingest import Fault, Taken, Wish, content, take

FACE, PERSON = 255, 128
"""A clip's attention (see `train.clips`)."""


def filmed(folder: Path) -> list[Path]:
    """The clips in a folder that `train.clips.store` wrote, in order."""
    if not folder.is_dir():
        return []
    plain = (p for p in folder.glob("*.npy") if not p.name.endswith(".ref.npy"))
    return sorted(filter(is_filmed, plain))


def wish_of(manifest: Manifest, frames: int) -> Wish:
    """What videos are brought to for a pair: always of its own size, since its clips are learnt from in batches."""
    return Wish(
        fps=manifest.fps,
        frames=max(frames, manifest.length),
        size=manifest.size,
        grid=manifest.size,
        time=manifest.codec.stride[0],
        shortest=frames,
        caption=False,
        whole=True,
    )


def draw(items: Sequence[Item], wish: Wish, cache: Cache, say: Callable[[str], None]) -> Iterator[Path | Fault]:
    """A clip for every item, drawn where it is new, or what is wrong with it."""
    for item in items:
        try:
            files = [None if f is None else content(f) for f in (item.video, item.driver, item.keypoints, item.mask)]
        except OSError as error:
            yield Fault(item=item, why=error.strerror or str(error))
            continue
        path = cache.path("filmed", files, item.start, item.end, item.fps, asdict(wish)).with_suffix(".npy")
        if not is_filmed(path):
            taken = take(item, wish)
            try:
                fault = taken if isinstance(taken, Fault) else _store(taken, wish, path, cache, say)
            except InputError as error:
                fault = Fault(item=item, why=str(error))
            if fault is not None:
                yield fault
                continue
        yield path


def _store(taken: Taken, wish: Wish, path: Path, cache: Cache, say: Callable[[str], None]) -> Fault | None:
    item, count = taken.item, len(taken.frames)
    wanted = Wanted(
        driver=item.driver or item.video,
        fps=wish.fps,
        start=item.start,
        end=item.end,
        most=count,
        keypoints=item.keypoints,
        mask=item.mask,
    )
    say(f"looking through {wanted.driver.name}")
    with closing(prepare(wanted, cache=PreparedCache(folder=cache.folder / "prepared"))) as found:
        seen = found.performance(taken.size)
        if len(seen.keypoints) < count or seen.frames is None or seen.mask is None:
            return Fault(item=item, why=f"its driver has {len(seen.keypoints)} frames, but it has {count}")
        points, masks = seen.keypoints[:count], seen.mask[list(range(count))]
        character = CharacterImage(image=seen.frames[[0]][0], mask=masks[0], keypoints=points[:1])
        planes = draw_planes(character, points, still_scene(character))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, StoredClip(planes=planes, truth=taken.frames, attention=_attention(points, masks)))
    return None


def _attention(points: Keypoints, masks: np.ndarray) -> np.ndarray:
    """[T, H, W]: the face's box, the rest of the person, the place."""
    plane = np.where(masks > 64, PERSON, 0).astype(np.uint8)
    for t, face in enumerate(points.face):
        seen = face[face[:, 2] > 0, :2]
        if len(seen) >= 10:
            (x0, y0), (x1, y1) = np.floor(seen.min(0)).astype(int).clip(0), np.ceil(seen.max(0)).astype(int)
            plane[t, y0:y1, x0:x1] = FACE
    return plane
