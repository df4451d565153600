"""People by a detector of transformers: a tiny one with random weights, whose boxes are compared with its own."""

import json

import numpy as np
import pytest
import torch

from pasdedeux.animate.inputs import InputError
from pasdedeux.animate.preprocess.detr import DetrFinder

transformers = pytest.importorskip("transformers")
NAMES = {0: "cat", 1: "person", 2: "dog"}


def tiny(folder, names=NAMES, kind="RTDetr", people=2.0):
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone,
        encoder_in_channels=[8, 16, 16],
        decoder_in_channels=[16, 16, 16],
        encoder_hidden_dim=16,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=12,
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        id2label=names,
        label2id={name: label for label, name in names.items()},
    )
    model = getattr(transformers, f"{kind}ForObjectDetection")(config)
    for name, weight in model.named_parameters():
        if "class_embed" in name and name.endswith("bias"):
            weight.data[1:2] += people  # of random weights nothing else would make people
    model.save_pretrained(folder)
    settings = {"image_processor_type": "RTDetrImageProcessor", "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("rtdetr")
    tiny(place)
    return place


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)


def test_people_are_those_queries_that_are_persons_surest_first(folder, picture):
    square = np.ascontiguousarray(picture[:64, :64])
    model = transformers.RTDetrForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        answer = model(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255)
    scores = answer.logits[0].sigmoid()
    # The twelve surest of all pairs of query and name are looked at, as the model's authors do.
    twelve = scores.flatten().sort(descending=True).values[:12][-1]
    expected = scores[:, 1][scores[:, 1] >= twelve].sort(descending=True).values
    found = DetrFinder(folder, least=0.0).find(square)
    assert [person.score for person in found] == pytest.approx(expected.tolist(), abs=1e-5)
    x, y, w, h = (64 * answer.pred_boxes[0, scores[:, 1].argmax()]).tolist()
    assert found[0].box == pytest.approx(np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, 64), abs=1e-3)


def test_boxes_lie_in_the_picture_and_doubtful_people_are_left_out(folder, picture):
    everybody = DetrFinder(folder, least=0.0).find(picture)
    for person in everybody:
        left, top, right, bottom = person.box
        assert 0 <= left <= right <= 160
        assert 0 <= top <= bottom <= 90
    least = everybody[len(everybody) // 2].score
    assert len(DetrFinder(folder, least=least).find(picture)) < len(everybody)
    assert DetrFinder(folder, least=0.999).find(picture) == []


def test_the_second_version_opens_as_well(tmp_path, picture):
    tiny(tmp_path, kind="RTDetrV2", people=10.0)
    finder = DetrFinder(tmp_path, least=0.0)
    assert finder.find(picture)
    assert finder.name.startswith("rt_detr_v2 ")


def test_a_model_without_people_is_refused(tmp_path):
    tiny(tmp_path, names={0: "cat", 1: "dog"})
    with pytest.raises(InputError, match="2 kinds of things, but none is called 'person'"):
        DetrFinder(tmp_path)


def test_folders_that_hold_no_such_model(tmp_path, folder):
    with pytest.raises(InputError, match=r"no config\.json"):
        DetrFinder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="does not hold a model"):
        DetrFinder(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(InputError, match="does not hold a model"):
        DetrFinder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(InputError, match="does not hold a model"):
        DetrFinder(tmp_path)


def test_missing_weights_are_not_made_up(tmp_path, folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "decoder" in name and name.endswith("weight"))
    save_file({n: w for n, w in weights.items() if n != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    with pytest.raises(InputError, match="lacks"):
        DetrFinder(tmp_path)


def test_without_transformers_the_extra_is_named(monkeypatch, folder):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"pasdedeux\[wan\]"):
        DetrFinder(folder)
