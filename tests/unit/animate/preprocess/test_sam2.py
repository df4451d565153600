"""Masks by SAM 2: a tiny one with random weights, followed by transformers' own way through a whole clip."""

import numpy as np
import pytest
import torch

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess import sam2
from pasdedeux.animate.preprocess.sam2 import Sam2Masker, mask_of, pixels_of, prompts

transformers = pytest.importorskip("transformers")
SIDE, SIZE = 64, (160, 90)


def tiny(folder, certain=True):
    """SAM 2 at 64x64 pixels; `certain` that there is always somebody, as random weights would not be."""
    torch.manual_seed(0)
    hiera = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[3],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
        fpn_hidden_size=128,
    )
    from transformers.models.sam2_video.configuration_sam2_video import (
        Sam2VideoMaskDecoderConfig,
        Sam2VideoPromptEncoderConfig,
    )

    config = transformers.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=128, image_size=SIDE),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=128, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32
        ),
        image_size=SIDE,
        num_maskmem=3,
        max_object_pointers_in_encoder=4,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=128,
        memory_attention_rope_feat_sizes=[SIDE // 16] * 2,
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    model = transformers.Sam2VideoModel(config)
    for name, weight in model.named_parameters():
        if weight.abs().max() == 0 and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)  # embeddings that start at zero would hide what they are used for
        if certain and "object_score" in name and name.endswith("proj_out.bias"):
            torch.nn.init.constant_(weight, 10.0)
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("sam2")
    tiny(place)
    return place


@pytest.fixture
def clip():
    return np.random.default_rng(0).integers(0, 255, (12, SIZE[1], SIZE[0], 3), np.uint8)


@pytest.fixture
def walking(figure):
    """Somebody who stands in the middle, seen throughout."""
    return figure(np.zeros((12, 21)), neck=(80, 25), scale=0.35, size=SIZE)


def test_every_frame_gets_a_mask_of_its_size(folder, clip, walking):
    masks = list(Sam2Masker(folder).masks(iter(clip), walking))
    assert len(masks) == 12
    assert all(mask.shape == (90, 160) and mask.dtype == np.uint8 for mask in masks)
    assert {*np.unique(masks)} == {0, 255}


def test_frame_by_frame_is_the_same_as_the_whole_clip_at_once(folder, clip, walking):
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    model = transformers.Sam2VideoModel.from_pretrained(folder).eval()
    session = Sam2VideoInferenceSession(
        video=torch.cat([pixels_of(frame, SIDE, "cpu") for frame in clip]),
        video_height=90,
        video_width=160,
        dtype=torch.float32,
    )
    points = next(prompts(walking)).points * np.float32([SIDE / 160, SIDE / 90])
    labels = torch.ones(1, 1, len(points), dtype=torch.int32)
    inputs = {"point_coords": torch.tensor(points)[None, None], "point_labels": labels}
    session.add_point_inputs(session.obj_id_to_idx(1), 0, inputs)
    session.obj_with_new_inputs = [1]
    whole = model.propagate_in_video_iterator(session, start_frame_idx=0)
    expected = [mask_of(answer.pred_masks, frame) for answer, frame in zip(whole, clip, strict=True)]
    found = list(Sam2Masker(folder).masks(clip, walking))
    assert (np.array(found) == np.array(expected)).mean() > 0.999
    assert not (np.array(found)[0] == np.array(found)[1:]).all()


def test_memory_does_not_grow_with_the_clip(folder, clip, walking, monkeypatch):
    kept = []
    forget = sam2.forget

    def counted(session, index, remembered):
        forget(session, index, remembered)
        memories = session.output_dict_per_obj[0]
        keys, others = memories["cond_frame_outputs"], memories["non_cond_frame_outputs"]
        points = session.point_inputs_per_obj[0]
        kept.append((len(session.processed_frames), len(keys), len(others), len(points)))

    monkeypatch.setattr(sam2, "forget", counted)
    long = walking[np.arange(60) % 12]
    list(Sam2Masker(folder, every=5).masks((clip[i % 12] for i in range(60)), long))
    assert max(count for count, *_ in kept) == 0
    assert max(keys for _, keys, *_ in kept) == sam2.KEPT_KEYS
    assert max(others for *_, others, _ in kept) <= 4
    assert max(points for *_, points in kept) == 0


def test_frames_are_taken_as_masks_are_asked_for(folder, clip, walking):
    taken = []

    def frames():
        for i, frame in enumerate(clip):
            taken.append(i)
            yield frame

    masks = Sam2Masker(folder).masks(frames(), walking)
    next(masks)
    assert taken == [0]


def test_nobody_is_masked_before_somebody_is_seen(folder, clip, walking):
    walking.body[:4, :, 2] = 0
    masks = list(Sam2Masker(folder).masks(clip, walking))
    assert max(mask.max() for mask in masks[:4]) == 0
    assert min(mask.max() for mask in masks[4:]) == 255
    walking.body[..., 2] = 0
    assert max(mask.max() for mask in Sam2Masker(folder).masks(clip, walking)) == 0


def keyed(keypoints, every=100):
    return [None if prompt is None else prompt.anew for prompt in prompts(keypoints, every)]


def test_it_is_pointed_at_first_again_and_after_absence(walking):
    assert keyed(walking) == [False] + [None] * 11
    assert keyed(walking, every=4) == [False, None, None, None] * 3
    walking.body[5:7, :, 2] = 0.2
    assert keyed(walking) == [False, *[None] * 6, False, *[None] * 4]


def test_too_few_points_put_off_pointing_again(walking):
    walking.body[3:6, :, 2] = 0
    walking.body[3:6, 1, 2] = 1
    assert keyed(walking, every=4) == [False, *[None] * 5, False, *[None] * 3, False, None]


def test_a_jump_is_another_shot(walking):
    walking.body[6:, :, 0] += 60
    assert keyed(walking) == [False, *[None] * 5, True, *[None] * 5]


def test_only_points_in_the_picture_that_are_seen_are_pointed_at(walking):
    walking.body[0, 0] = (500, 20, 1)
    walking.body[0, 2, 2] = 0.4
    points = next(prompts(walking)).points
    assert points.tolist() == walking.body[0, [1, 5, 8, 11, 10, 13], :2].tolist()
    walking.body[0, sam2.POINTED, 2] = 0
    assert len(next(prompts(walking)).points) == 20 - len(sam2.POINTED)


def test_prompts_and_pixels_are_squeezed_alike(folder, clip, walking, monkeypatch):
    given = []
    session = sam2._session

    def watched(*arguments):
        made = session(*arguments)
        add = made.add_point_inputs
        monkeypatch.setattr(made, "add_point_inputs", lambda *each: (given.append(each), add(*each)))
        return made

    monkeypatch.setattr(sam2, "_session", watched)
    list(Sam2Masker(folder).masks(clip, walking))
    (_, index, inputs), *rest = given
    assert (index, rest) == (0, [])
    neck = inputs["point_coords"][0, 0, 1].tolist()
    assert neck == pytest.approx([walking.body[0, 1, 0] * SIDE / 160, walking.body[0, 1, 1] * SIDE / 90])
    white = pixels_of(np.full((90, 160, 3), 255, np.uint8), SIDE, "cpu")
    assert white.shape == (1, 3, SIDE, SIDE)
    lines = np.zeros((320, 320, 3), np.uint8)
    lines[:, ::3] = 255  # thinner than the model's pixels: grey everywhere
    assert pixels_of(lines, SIDE, "cpu")[0, 0, 5:-5, 5:-5].std() < 0.2
    assert white[0, :, 5, 5].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])


def test_a_folder_without_the_model(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        Sam2Masker(tmp_path)
