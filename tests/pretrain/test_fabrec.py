"""3FabRec's autoencoder: its losses by hand, whom each term moves, when each takes part, its run folder."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import run
from torch import nn
from torch.testing import assert_close

import fra
from fra.files import read_rows
from fra.models.encoder import Encoder, EncoderConfig
from fra.models.structure import contrast_structure
from fra.pretrain.fabrec import ChangeConfig, FabRec, FabRecConfig, changed, fools, frozen, tells
from fra.pretrain.run import build_method, load_pretrain_recipe
from fra.training.optimizers import OptimizerConfig, build_optimizer
from fra.training.trainable import Loss, Progress

SMALL = FabRecConfig(code=6, decoder_width=16, critic_width=20, discriminator_width=4, structure_window=11)
ENCODER = EncoderConfig(name="resnet10_quarter", image_size=32, std=(1.0, 1.0, 1.0))


def small(**settings: object) -> FabRec:
    torch.manual_seed(0)
    return FabRec(replace(SMALL, **settings), Encoder(ENCODER))


def faces(count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def at(step: int, steps: int = 100) -> Progress:
    return Progress(step, steps, 0, 1)


def loss_at(method: FabRec, step: int) -> Loss:
    torch.manual_seed(step)
    return method.loss([faces()], at(step))


def moved(method: FabRec, step: int) -> set[str]:
    """The parts whose weights get a gradient."""
    method.zero_grad(set_to_none=True)
    loss_at(method, step).total.backward()
    return {name.split(".")[0] for name, weight in method.named_parameters() if weight.grad is not None}


def test_adversarial_terms_by_hand() -> None:
    # D = 1 / (1 + exp(-logit)): logits of log 3 and -log 3 are D = .75 and D = .25
    real, made = torch.tensor([math.log(3)]), torch.tensor([-math.log(3)])
    assert_close(fools(made), torch.tensor(-math.log(0.25)))
    assert_close(tells(real, made), torch.tensor(-math.log(0.75) - math.log(1 - 0.25)))
    assert_close(tells(torch.zeros(3), torch.zeros(3)), torch.tensor(math.log(4)))


def test_the_loss_is_what_it_is_made_of() -> None:
    method = small().eval()
    wanted = faces() - method.encoder.mean
    made = method.online(faces())
    pixels = 255 * (made - wanted).abs().mean()
    structure = 1 - contrast_structure(made, wanted, window=11, span=2.0).mean()
    early, later = loss_at(method, 2), loss_at(method, 50 + 2)
    assert_close(early.total, pixels)
    assert_close(early.terms["structure"], structure)  # known from the start, and counts later
    adversarial = later.terms["image_fools"] + later.terms["discriminator"]
    assert_close(later.total, (pixels + 60 * structure) / 2 + adversarial)
    assert_close(later.terms["image_fools"], fools(method.discriminator(made)))
    assert_close(later.terms["discriminator"], tells(method.discriminator(wanted), method.discriminator(made)))
    assert early.terms["discriminator"] == early.terms["image_fools"] == 0
    assert early.terms.keys() == later.terms.keys() == method.loss_terms.keys()


def test_with_a_small_last_layer_it_begins_at_the_mean_colour() -> None:
    plain, quiet = small(), small(last_scale=0.05)
    assert_close(quiet.online.decoder.last.weight, 0.05 * plain.online.decoder.last.weight)
    assert quiet.online(faces()).abs().mean() < 0.2 * plain.online(faces()).abs().mean()
    assert_close(quiet.discriminator(faces()), 0.05 * plain.discriminator(faces()))  # and logits begin near 0


def test_critic_and_encoder_have_their_turns_every_fourth_and_second_step() -> None:
    method = small().eval()
    base = [loss_at(method, step) for step in range(4)]
    extra = [loss.total - loss.terms["pixels"] for loss in base]
    assert_close(extra[0], torch.tensor(0.0))
    assert_close(extra[1], base[1].terms["code_fools"])
    assert_close(extra[2], torch.tensor(0.0))
    assert_close(extra[3], base[3].terms["code_fools"] + base[3].terms["critic"], rtol=1e-4, atol=1e-4)


def test_each_opponent_is_moved_in_its_turn_alone_and_a_discriminator_may_be_left_out() -> None:
    method = small()
    assert moved(method, 0) == moved(method, 1) == {"online"}
    assert moved(method, 3) == {"online", "critic"}
    assert moved(method, 50) == {"online", "discriminator"}
    assert moved(method, 51 + 4 * 3) == {"online", "critic", "discriminator"}
    assert moved(small(image_weight=0.0), 50) == {"online"}


def test_a_term_moves_those_only_whom_it_concerns() -> None:
    method, made = small(), torch.rand(4, 3, 32, 32, requires_grad=True)
    fools(frozen(method.discriminator, made)).backward()
    assert made.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in method.discriminator.parameters())
    assert_close(frozen(method.critic.eval(), torch.ones(2, 6)), method.critic(torch.ones(2, 6)))


def test_one_optimiser_moves_all_as_one_of_its_own_for_each_would() -> None:
    """Of alternating training with what the autoencoder made before its step: gradients are taken, then all step."""
    config = OptimizerConfig(name="adam", learning_rate=1e-3, weight_decay=0.0, betas=(0.0, 0.999))
    together, apart = small(), small()
    one = build_optimizer(replace(config, discriminator_rate=0.5), together)
    for group in one.param_groups:  # as the loop does
        group["lr"] = group.get("peak", config.learning_rate)
    rates = {"online": 1e-3, "critic": 1e-3, "discriminator": 5e-4}
    each = {
        name: torch.optim.Adam(getattr(apart, name).parameters(), lr=rate, betas=(0.0, 0.999))
        for name, rate in rates.items()
    }
    for step in (48, 49, 50, 51):
        loss_at(together, step).total.backward()
        one.step()
        one.zero_grad(set_to_none=True)
        loss_at(apart, step).total.backward()
        turns = {
            name: optimizer
            for name, optimizer in each.items()
            if next(getattr(apart, name).parameters()).grad is not None
        }
        for optimizer in turns.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    for (name, weight), (_, other) in zip(together.named_parameters(), apart.named_parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_changes_of_a_face_are_a_similarity_and_a_shear_about_its_middle() -> None:
    face = faces(1)
    assert_close(changed(face, ChangeConfig(0.0, 0.0, (1.0, 1.0), 0.0)), face, atol=1e-5, rtol=0)
    twice = changed(face, ChangeConfig(0.0, 0.0, (2.0, 2.0), 0.0))
    middle = torch.nn.functional.interpolate(
        face[..., 8:24, 8:24], scale_factor=2, mode="bilinear", align_corners=False
    )
    assert_close(twice[..., 2:-2, 2:-2], middle[..., 2:-2, 2:-2], atol=1e-5, rtol=0)
    torch.manual_seed(1)
    many = changed(face.expand(200, -1, -1, -1), ChangeConfig())
    torch.manual_seed(1)
    assert torch.equal(many, changed(face.expand(200, -1, -1, -1), ChangeConfig()))  # by the seed alone
    assert many.std(0).mean() > 0.1
    with pytest.raises(ValueError, match="the smaller first"):
        ChangeConfig(zoom=(1.1, 0.9))


@torch.no_grad()
def test_health_tells_error_structure_and_codes_and_warns_of_equal_codes() -> None:
    method = small().eval()
    row = method.own_health(faces())
    made, codes = method.online(faces()) + method.encoder.mean, method.online.codes(faces())
    assert row["reconstruction_error"] == pytest.approx(255 * (made - faces()).abs().mean().item())
    assert row["code_std"] == pytest.approx(codes.std(0).mean().item())
    assert row["code_mean"] == pytest.approx(codes.mean(0).abs().mean().item())
    assert set(row) == {column.name for column in method.health_columns}
    nn.init.zeros_(method.online.code.weight)
    assert "nearly the same code" in method.own_warnings(method.own_health(faces()))[0]
    (column,) = (column for column in method.health_columns if column.name == "code_std")
    assert [column.judge(np.array([value]), {}).state for value in (0.05, 0.3, 1.0)] == ["bad", "watch", "good"]


def test_a_run_keeps_decoder_health_and_pictures_of_every_epoch(drawn_faces: Path, tmp_path: Path) -> None:
    out = run(drawn_faces, tmp_path / "run", name="smoke/resnet10_half.fabrec")
    assert fra.load_encoder(out)(torch.rand(2, 3, 32, 32)).shape == (2, 256)
    assert all(float(row["reconstruction_error"]) > 0 for row in read_rows(out / "health.csv"))
    assert {"pixels", "critic", "discriminator"} <= read_rows(out / "log.csv")[-1].keys()
    pictures = sorted(path.name for path in (out / "pictures").glob("reconstructions_*.jpg"))
    assert pictures == [f"reconstructions_{epoch:04d}.jpg" for epoch in range(3)]
    with Image.open(out / "pictures" / pictures[0]) as picture:
        assert picture.width > picture.height  # eight faces, and what is made of them below


def test_views_and_sides_that_it_has_no_use_for_are_refused() -> None:
    with pytest.raises(ValueError, match="fabrec needs one large view and no others"):
        build_method(load_pretrain_recipe("smoke/resnet10_half.fabrec", ["views.blur=[0, 0]", "views.solarize=[0, 0]"]))
    with pytest.raises(ValueError, match="faces of 48 px cannot be made"):
        build_method(load_pretrain_recipe("smoke/resnet10_half.fabrec", ["encoder.image_size=48", "views.size=48"]))
