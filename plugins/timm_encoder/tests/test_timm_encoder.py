"""The networks and the loss against timm itself and against their contracts."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from toolkit_timm_encoder import FeatureAlignment, TimmDecoder, TimmEncoder, TimmFeatures

from toolkit import TokenizerOutput, build_tokenizer, load_tokenizer
from toolkit.testing import check_decoder, check_encoder, check_loss

BACKBONE = "resnet10t"
TOKENIZER = dict(
    encoder=dict(type="TimmEncoder", backbone=BACKBONE, level=1), quantizer=dict(type="LFQ", bits=6),
    decoder=dict(type="TimmDecoder", filters=8, channel_multipliers=(1, 2, 2)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """(file, the classifier it is of), with statistics as training leaves them."""
    torch.manual_seed(0)
    model = timm.create_model(BACKBONE)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), path)
    return str(path), model.eval()


@pytest.mark.parametrize("backbone", [BACKBONE, "convnext_atto"])
def test_encoder_meets_its_contract(backbone):
    check_encoder(TimmEncoder(backbone=backbone, level=1, out_channels=6))


def test_decoder_meets_its_contract():
    check_decoder(TimmDecoder(in_channels=6, filters=8, channel_multipliers=(1, 2, 2)))


def test_loss_meets_its_contract(weights):
    check_loss(FeatureAlignment(backbone=BACKBONE, weights=weights[0], level=1, margin=0.0))


@pytest.mark.parametrize("level", [0, 2, -1])
def test_features_are_the_classifiers_own(weights, level):
    path, model = weights
    features = TimmFeatures(BACKBONE, level=level, weights=path).train()
    frames = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(model.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    expected, = model.forward_intermediates((frames - mean) / std, indices=[level % 5], intermediates_only=True)
    result = features(frames * 2 - 1)
    torch.testing.assert_close(result, expected)
    assert result.shape[1:] == (features.channels, 64 // features.reduction, 64 // features.reduction)


def test_vision_transformer_takes_its_own_arguments():
    encoder = TimmEncoder(backbone="vit_tiny_patch16_224", out_channels=6, arguments=dict(dynamic_img_size=True))
    assert encoder.stride == (1, 16, 16)
    assert encoder(torch.zeros(1, 3, 2, 32, 48)).shape == (1, 6, 2, 2, 3)


def test_grey_images_are_accepted(weights):
    encoder = TimmEncoder(backbone=BACKBONE, level=1, in_channels=1, weights=weights[0], out_channels=6)
    assert encoder(torch.zeros(1, 1, 1, 16, 16)).shape == (1, 6, 1, 4, 4)


@pytest.mark.parametrize(("options", "words"), [
    (dict(backbone="resnet_18"), "timm has no backbone 'resnet_18'; did you mean"),
    (dict(backbone=BACKBONE, level=7), "choose another level"),
    (dict(backbone=BACKBONE, arguments=dict(depht=3)), "choose another level or backbone"),
    (dict(backbone=BACKBONE, weights="no/such.safetensors"), "does not exist"),
])
def test_unknown_backbone_level_or_argument_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        TimmFeatures(**options)


def test_weights_of_another_backbone_are_refused(weights):
    with pytest.raises(ValueError, match="does not fit the weights"):
        TimmFeatures("resnet18", weights=weights[0])


def test_backbone_learns_only_if_it_is_to(weights):
    pixels = torch.rand(1, 3, 1, 16, 16)
    for trainable in (True, False):
        encoder = TimmEncoder(backbone=BACKBONE, level=1, out_channels=6, trainable=trainable).train()
        before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
        encoder(pixels).square().sum().backward()
        assert all((parameter.grad is not None) == trainable for parameter in encoder.features.parameters())
        assert encoder.conv_out.weight.grad is not None
        assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())


def test_a_saved_tokenizer_needs_no_weights_file(weights, tmp_path):
    tokenizer = build_tokenizer({**TOKENIZER, "encoder": {**TOKENIZER["encoder"], "weights": weights[0]}}).eval()
    tokenizer.save_pretrained(tmp_path)
    assert weights[0] not in (tmp_path / "config.json").read_text()
    pixels = torch.rand(1, 3, 2, 15, 17) * 2 - 1
    assert torch.equal(load_tokenizer(tmp_path)(pixels).reconstruction, tokenizer(pixels).reconstruction)


def test_a_stream_gives_the_tokens_and_pixels_of_the_whole_clip():
    tokenizer = build_tokenizer(TOKENIZER).eval()
    clip = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    whole = tokenizer.tokenize(clip)
    chunks = list(tokenizer.tokenize_stream(clip.split(2, dim=2)))
    assert torch.equal(torch.cat(chunks, dim=1), whole)
    pixels = torch.cat(list(tokenizer.detokenize_stream(chunks, size=(5, 16, 16))), dim=2)
    torch.testing.assert_close(pixels, tokenizer.detokenize(whole, (5, 16, 16)), rtol=1e-4, atol=1e-5)


def alignment(weights, latents: torch.Tensor, target: torch.Tensor, **options) -> float:
    loss = FeatureAlignment(backbone=BACKBONE, weights=weights[0], level=1, **options)
    return loss(TokenizerOutput(target, latents, latents, None), target).item()


@torch.no_grad()
def test_alignment_is_the_mean_difference_of_similarities(weights):
    target, latents = torch.rand(1, 3, 1, 8, 16) * 2 - 1, torch.randn(1, 5, 1, 2, 4)
    features = TimmFeatures(BACKBONE, level=1, weights=weights[0])(target[:, :, 0])[0].flatten(1)  # (c, 8)
    vectors, expected = latents[0].flatten(1), []
    for one in range(8):
        for other in range(8):
            pair = [torch.cosine_similarity(v[:, one], v[:, other], dim=0) for v in (vectors, features)]
            expected.append(max(abs(float(pair[0] - pair[1])) - 0.1, 0.0))
    assert alignment(weights, latents, target, margin=0.1) == pytest.approx(sum(expected) / 64, rel=1e-5)


def test_turned_and_stretched_features_are_aligned(weights):
    target = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    features = TimmFeatures(BACKBONE, level=1, weights=weights[0])(target.transpose(1, 2).flatten(0, 1))
    features = features.unflatten(0, (2, 3)).transpose(1, 2)  # (B, c, T, h, w)
    turn, _ = torch.linalg.qr(torch.randn(features.shape[1], features.shape[1]))
    turned = 3 * torch.einsum("xc,bcthw->bxthw", turn, features)
    assert alignment(weights, turned, target, margin=0.0) == pytest.approx(0, abs=1e-5)
    assert alignment(weights, torch.randn_like(turned), target, margin=0.0) > 0.1


def test_a_latent_is_aligned_to_the_last_of_its_frames(weights):
    # Five frames of a stride of 4 in time are two latents: the first frame and the last four.
    target = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    features = TimmFeatures(BACKBONE, level=1, weights=weights[0])(target[0, :, [0, 4]].transpose(0, 1))
    assert alignment(weights, features.transpose(0, 1)[None], target, margin=0.0) == pytest.approx(0, abs=1e-5)


def test_alignment_reaches_the_latents_and_is_in_no_checkpoint(weights):
    loss = FeatureAlignment(backbone=BACKBONE, weights=weights[0], level=1, margin=0.0).train()
    target, latents = torch.rand(1, 3, 1, 16, 16), torch.randn(1, 6, 1, 4, 4, requires_grad=True)
    loss(TokenizerOutput(target, latents, latents, None), target).backward()
    assert latents.grad.abs().sum() > 0
    assert list(loss.parameters()) == [] and loss.state_dict() == {}


def test_a_negative_margin_is_refused(weights):
    with pytest.raises(ValueError, match="margin from 0 on, got -1"):
        FeatureAlignment(backbone=BACKBONE, weights=weights[0], margin=-1)
