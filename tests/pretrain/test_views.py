"""Views against Pillow and torchvision: each step, their distribution, and that nothing else decides about them."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter
from scipy.stats import chisquare, ks_2samp

from fra.pretrain import views
from fra.pretrain.views import ViewConfig, ViewMaker, ViewsConfig

PLAIN = ViewConfig(size=32, flip=0, jitter=0, grayscale=0, blur=0, solarize=0)
FRA_FIRST = ViewConfig(size=32, blur=1.0, solarize=0.0)
FRA_SECOND = ViewConfig(size=32, blur=0.1, solarize=0.2)


def picture(seed: int, height: int = 40, width: int = 40) -> torch.Tensor:
    """A colourful image, smooth as a photograph is, with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
    return torch.from_numpy(noisy).permute(2, 0, 1).contiguous()


def pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def levels_apart(ours: torch.Tensor, theirs: Image.Image) -> torch.Tensor:
    """Absolute differences in levels of 255."""
    return (ours * 255 - torch.from_numpy(np.array(theirs)).permute(2, 0, 1)).abs()


def one(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value)


@pytest.mark.parametrize(("step", "oracle", "amounts"), [
    (views.brighten, TF.adjust_brightness, (0.6, 1.0, 1.4)),
    (views.change_contrast, TF.adjust_contrast, (0.6, 1.0, 1.4)),
    (views.saturate, TF.adjust_saturation, (0.8, 1.0, 1.2)),
])  # fmt: skip
def test_blends_equal_pillows_within_two_levels(step, oracle, amounts):
    for amount in amounts:
        faces = picture(1)[None] / 255
        step(faces, one(amount))
        assert levels_apart(faces[0], oracle(pil(picture(1)), amount)).max() <= 2


@pytest.mark.parametrize("turns", [-1 / 3, -0.1, -0.03, 0.0, 0.07, 0.1, 1 / 3])
def test_hue_equals_torchvisions_and_pillows(turns):
    faces = picture(2)[None] / 255
    exact = TF.adjust_hue(faces, turns)
    by_pillow = TF.adjust_hue(pil(picture(2)), turns)
    views.shift_hue(faces, one(turns))
    torch.testing.assert_close(faces, exact, atol=2e-5, rtol=0)
    # There, hue and shift are cut down to one of 255 steps each, and a step of hue moves a colour by 6 levels.
    assert levels_apart(faces[0], by_pillow).max() <= 2 * 6 + 2
    assert levels_apart(faces[0], by_pillow).mean() <= 3


def test_hue_of_pure_colours_and_greys_by_hand():
    # a third of a turn: red to green to blue to red; yellow to cyan; black, white and grey stay
    colours = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]])
    turned = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]])
    faces = colours.T.reshape(1, 3, 1, 7).repeat(1, 1, 7, 1)
    views.shift_hue(faces, one(1 / 3))
    torch.testing.assert_close(faces[0, :, 3].T, turned, atol=1e-6, rtol=0)


def test_grey_equals_pillows_within_a_level():
    ours = views.grey(picture(3)[None] / 255)[0].expand(3, -1, -1)
    assert levels_apart(ours, pil(picture(3)).convert("L").convert("RGB")).max() <= 0.51


def test_solarize_equals_pillows():
    face = picture(4) / 255
    views.solarize(face, 128 / 255)
    assert levels_apart(face, ImageOps.solarize(pil(picture(4)), 128)).max() < 1e-3


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.0, 1.5, 2.0])
def test_blur_is_gaussian_with_continued_borders(sigma):
    faces = torch.stack([picture(5), picture(4), picture(5)]) / 255
    by_pillow = pil(picture(5)).filter(ImageFilter.GaussianBlur(sigma))
    same_reach = gaussian_filter(faces[2].double(), (0, sigma, sigma), mode="nearest", radius=round(3 * sigma))
    endless = gaussian_filter(faces[2].double(), (0, sigma, sigma), mode="nearest", truncate=8)
    views.blur(faces, np.array([0.9 * sigma, 0.0, sigma]))
    np.testing.assert_allclose(faces[2], same_reach, atol=1e-6)
    np.testing.assert_allclose(faces[2], endless, atol=2 / 255)
    assert torch.equal(faces[1], picture(4) / 255)
    # Pillow blurs by three boxes of the same variance, and rounds to 8 bits after each
    assert levels_apart(faces[2], by_pillow).max() <= 8
    assert levels_apart(faces[2], by_pillow).mean() <= 1


@pytest.mark.parametrize("box", [(0, 0, 40, 40), (3, 5, 20, 15), (30, 36, 7, 4), (0, 10, 40, 1)])
@pytest.mark.parametrize("size", [16, 50])
def test_crops_are_resized_as_by_pillow(box, size):
    left, top, width, height = box
    theirs = pil(picture(6)).crop((left, top, left + width, top + height))
    theirs = theirs.resize((size, size), Image.Resampling.BILINEAR)
    ours = views.crop(picture(6), np.array(box), size=size)
    assert levels_apart(ours / 255, theirs).max() <= 2


def test_colours_change_in_each_faces_own_order():
    # contrast then brightness is not brightness then contrast once something is clamped
    orders = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [1, 0, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1]])
    amounts = np.tile([1.4, 0.6, 1.2, 0.1], (5, 1)) + np.linspace(0, 0.1, 5)[:, None]
    faces = picture(7)[None].repeat(5, 1, 1, 1) / 255
    views.change_colours(faces, orders, amounts)
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for face, order, amount in zip(faces, orders, amounts, strict=True):
        theirs = picture(7) / 255
        for step in order:
            theirs = steps[step](theirs, amount[step])
        torch.testing.assert_close(face, theirs, atol=5e-4, rtol=0)  # its weight of red is 0.2989
    assert (faces[0] - faces[1]).abs().max() > 0.05


def drawn(config: ViewConfig, count: int, *, height: int = 100, width: int = 100, seed: int = 0):
    sizes = np.tile([height, width], (count, 1))
    return views.draw(config, sizes, np.arange(count), seed=seed, epoch=0, view=0)


@pytest.mark.parametrize(("height", "width"), [(100, 100), (80, 120), (20, 200), (200, 20)])
def test_crops_are_distributed_as_torchvisions(height, width):
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = [T.RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    top, left, h, w = np.array(theirs).T
    ours = drawn(ViewConfig(), 3000, height=height, width=width).boxes
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= (width, height)).all()
    for mine, other in zip(ours.T, (left, top, w, h), strict=True):
        assert ks_2samp(mine, other).pvalue > 0.001
    assert ks_2samp(ours[:, 2] * ours[:, 3], w * h).pvalue > 0.001
    assert ks_2samp(ours[:, 2] / ours[:, 3], w / h).pvalue > 0.001


def test_an_impossible_crop_becomes_the_largest_central_one():
    # at 20 x 200 no crop of 90 % of the area fits; the widest allowed is 20 * 4/3 = 26.7, rounded 27, in the middle
    boxes = drawn(ViewConfig(scale=(0.9, 1.0)), 50, height=20, width=200).boxes
    assert (boxes == [(200 - 27) // 2, 0, 27, 20]).all()


def test_chances_ranges_and_orders_are_as_configured():
    config = ViewConfig(blur=0.3, solarize=0.2)
    view = drawn(config, 20_000)
    for happened, chance in (
        (view.flip, 0.5), (view.jitter, 0.8), (view.grayscale, 0.2), (view.sigma > 0, 0.3), (view.solarize, 0.2),
    ):  # fmt: skip
        assert abs(happened.mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / 20_000)
    low, high = np.array([0.6, 0.6, 0.8, -0.1]), np.array([1.4, 1.4, 1.2, 0.1])
    uniform = (view.amounts - low) / (high - low)
    sigma = (view.sigma[view.sigma > 0] - 0.1) / 1.9
    for values in (*uniform.T, sigma):
        counts, _ = np.histogram(values, bins=20, range=(0, 1))
        assert counts.sum() == len(values)
        assert chisquare(counts).pvalue > 0.001
    _, per_order = np.unique(view.order, axis=0, return_counts=True)
    assert len(per_order) == 24
    assert chisquare(per_order).pvalue > 0.001
    together = np.stack([view.flip, view.jitter, view.grayscale, view.solarize, *uniform.T, *view.boxes.T[2:3]])
    off_diagonal = np.corrcoef(together) - np.eye(len(together))
    assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(20_000)


class PillowBlur:
    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def torchvision_views(config: ViewConfig, image: torch.Tensor, count: int) -> torch.Tensor:
    """The same recipe on Pillow images, with torchvision's own randomness."""
    steps = T.Compose([
        T.RandomResizedCrop(config.size, scale=config.scale),
        T.RandomHorizontalFlip(config.flip),
        T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], config.jitter),
        T.RandomGrayscale(config.grayscale),
        T.RandomApply([PillowBlur()], config.blur),
        T.RandomSolarize(128, config.solarize),
        T.ToTensor(),
    ])  # fmt: skip
    random.seed(0)
    torch.manual_seed(0)
    return torch.stack([steps(pil(image)) for _ in range(count)])


def effects(faces: torch.Tensor) -> dict[str, torch.Tensor]:
    """Numbers of each face that the steps change: means, spreads, colourfulness, sharpness, asymmetry."""
    steps = (faces[..., 1:] - faces[..., :-1]).abs().mean((1, 2, 3))
    halves = faces[..., :16].mean((1, 2, 3)) - faces[..., 16:].mean((1, 2, 3))
    numbers = dict(
        mean=faces.mean((1, 2, 3)), spread=faces.std((1, 2, 3)), sharpness=steps, halves=halves,
        colour=(faces.amax(1) - faces.amin(1)).mean((1, 2)),
    )  # fmt: skip
    return numbers | {f"channel {c}": faces[:, c].mean((1, 2)) for c in range(3)}


@pytest.mark.parametrize("config", [FRA_FIRST, FRA_SECOND])
def test_whole_views_are_distributed_as_torchvisions(config):
    image, count = picture(8, 48, 48), 800
    view = drawn(config, count, height=48, width=48, seed=3)
    ours = effects(views.carry_out(config, [image] * count, view) / 255)
    theirs = effects(torchvision_views(config, image, count))
    for name in ours:
        a, b = ours[name], theirs[name]
        error = ((a.var() + b.var()) / count).sqrt()
        assert abs(a.mean() - b.mean()) < 4 * error, name
        assert abs(a.std() / b.std() - 1) < 0.12, name
        # greys have colour 0 here and 1e-8 there, which ks_2samp would tell apart
        assert ks_2samp(a.round(decimals=3), b.round(decimals=3)).pvalue > 0.001, name


def mixed() -> list[torch.Tensor]:
    return [picture(seed, 30 + 7 * (seed % 5), 25 + 11 * (seed % 4)) for seed in range(24)]


@pytest.mark.parametrize("size", [32, 37, 64])
def test_a_view_is_the_same_alone_and_in_any_batch(size):
    maker = ViewMaker(ViewsConfig(size=size), seed=5)
    images, indices = mixed(), torch.arange(100, 124)
    together = maker.make(images, indices, epoch=2)
    assert [view.shape for view in together] == [(24, 3, size, size)] * 2
    for i in range(24):
        alone = maker.make([images[i]], indices[i : i + 1], epoch=2)
        assert torch.equal(alone[0][0], together[0][i])
        assert torch.equal(alone[1][0], together[1][i])
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    again = maker.make([images[i] for i in shuffled], indices[shuffled], epoch=2)
    assert all(torch.equal(view, before[shuffled]) for view, before in zip(again, together, strict=True))


def test_the_number_of_threads_does_not_matter():
    maker = ViewMaker(ViewsConfig(size=224), seed=5)
    before = torch.get_num_threads()
    try:
        made = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(maker.make(mixed()[:8], torch.arange(8), epoch=0))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*made, strict=True))


def test_the_layout_of_an_image_in_memory_does_not_matter():
    maker = ViewMaker(ViewsConfig(size=32), seed=5)
    colours_last = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in mixed()]
    a, b = (maker.make(images, torch.arange(24), epoch=0) for images in (mixed(), colours_last))
    assert all(torch.equal(one, two) for one, two in zip(a, b, strict=True))


def test_seed_epoch_index_and_view_each_change_a_view():
    images = [picture(1)] * 2
    config = ViewsConfig(size=32, blur=(1.0, 1.0), solarize=(0.0, 0.0))

    def first(seed: int = 0, epoch: int = 0, index: int = 0) -> list[torch.Tensor]:
        return [view[0] for view in ViewMaker(config, seed=seed).make(images, torch.tensor([index, 9]), epoch=epoch)]

    base, second_view = first()
    assert torch.equal(base, first()[0])
    for other in (second_view, first(seed=1)[0], first(epoch=1)[0], first(index=1)[0]):
        assert not torch.equal(base, other)


def test_random_numbers_of_neighbouring_keys_have_nothing_in_common():
    keys = [(s, e, v) for s in (0, 1) for e in (0, 1) for v in (0, 1)]
    streams = [views.random_bits(*key, indices=np.arange(4096), count=2) for key in keys]
    assert len(np.unique(np.concatenate(streams))) == 8 * 4096 * 2
    values = np.concatenate([each.T for each in streams]) / 2.0**64
    off_diagonal = np.corrcoef(values) - np.eye(16)
    assert np.abs(off_diagonal).max() < 4.5 / np.sqrt(4096)
    along = np.corrcoef(values[0, :-1], values[0, 1:])[0, 1]  # one image and the next
    assert abs(along) < 4.5 / np.sqrt(4096)


def grid_image() -> torch.Tensor:
    """Red is x, green is y: what a plain view shows tells where it was cut."""
    ramp = torch.linspace(0, 255, 128).round().byte()
    return torch.stack([ramp[None].expand(128, 128), ramp[:, None].expand(128, 128), torch.zeros(128, 128).byte()])


def measured_crops(made: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Width (negative when mirrored) and height of crops of `grid_image`, as shares of its sides."""
    made, size = made / 255, made.shape[-1]
    inner = (size - 1) / size  # from the centre of the first pixel to that of the last
    middle = size // 2
    return (made[:, 0, middle, -1] - made[:, 0, middle, 0]) / inner, (
        made[:, 1, -1, middle] - made[:, 1, 0, middle]
    ) / inner


def test_crops_cover_the_configured_share_of_an_image_of_coordinates():
    config = replace(PLAIN, flip=0.5, scale=(0.3, 0.8))
    view = drawn(config, 400, height=128, width=128)
    made = views.carry_out(config, [grid_image()] * 400, view)
    width, height = measured_crops(made)
    share = width.abs() * height
    assert share.min() > 0.3 - 0.03
    assert share.max() < 0.8 + 0.03
    assert abs(share.mean() - 0.55) < 4 * 0.5 / np.sqrt(12 * 400)
    assert torch.equal(width < 0, torch.from_numpy(view.flip))
    assert made[:, 2].abs().max() == 0


def test_frames_say_which_part_of_the_face_a_view_shows():
    """Red rises from left to right and green from top to bottom, so the means of a plain view tell its middle."""
    height, width = 80, 100
    places = [torch.arange(length) + 0.5 for length in (height, width)]
    red, green = (places[1] * 2).expand(height, -1), (places[0] * 2)[:, None].expand(-1, width)
    image = torch.stack([red, green, torch.zeros(height, width)]).round().byte()
    plain = ViewsConfig(size=32, jitter=0, grayscale=0, blur=(0, 0), solarize=(0, 0))
    maker, indices = ViewMaker(plain, seed=3), torch.arange(40)
    views, frames = maker.make_with_frames([image] * 40, indices, epoch=1)
    assert all(map(torch.equal, views, maker.make([image] * 40, indices, epoch=1)))
    for view, frame in zip(views, frames, strict=True):
        left, top, wide, high = frame.T
        across, down = left + wide / 2, top + high / 2
        mirrored = view[:, 0, 16, 0] > view[:, 0, 16, -1]
        assert 8 < int(mirrored.sum()) < 32
        assert torch.equal(mirrored, wide < 0)
        torch.testing.assert_close(view[:, 0].float().mean((1, 2)) / 200, across, atol=0.01, rtol=0)
        torch.testing.assert_close(view[:, 1].float().mean((1, 2)) / 160, down, atol=0.01, rtol=0)
        middle = view[:, 0, 16].float()
        torch.testing.assert_close((middle[:, -1] - middle[:, 0]) / 200, wide * 31 / 32, atol=0.02, rtol=0)


def test_multi_crop_views_have_the_stated_number_sizes_and_scales():
    # two large views of .14 to 1 and six small ones of .05 to .14, as SwAV; 300 faces
    config = ViewsConfig(
        size=64, scale=(0.14, 1.0), jitter=0, grayscale=0, blur=(0.0,) * 8, solarize=(0.0,) * 8, small=6, small_size=32
    )
    made = ViewMaker(config, seed=3).make([grid_image()] * 300, torch.arange(300), epoch=0)
    assert [view.shape[-1] for view in made] == config.sizes == [64, 64, 32, 32, 32, 32, 32, 32]
    for number, view in enumerate(made):
        width, height = measured_crops(view)
        share = width.abs() * height
        low, high = (0.14, 1.0) if number < 2 else (0.05, 0.14)
        # whole pixels of 128: a side of 28 pixels is rounded by at most 2 %, an area by 4 %
        assert share.min() > 0.95 * low
        assert share.max() < 1.05 * high
        # uniform: mean in the middle, but for the few large crops that do not fit and are drawn again
        assert abs(share.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * 300) + 0.02 * high
    assert not torch.equal(made[2], made[3])


def test_plain_views_only_crop_and_mirror():
    whole = replace(PLAIN, size=40, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    for flip, expected in ((0, picture(1)), (1, picture(1).flip(-1))):
        config = replace(whole, flip=flip)
        view = drawn(config, 1, height=40, width=40)
        assert torch.equal(views.carry_out(config, [picture(1)], view)[0], expected)


def test_there_are_as_many_views_as_blurs():
    config = ViewsConfig(size=32, blur=(1.0, 0.1, 0.5), solarize=(0.0, 0.2, 0.0))
    assert [(view.blur, view.solarize) for view in config.each()] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    assert len(ViewMaker(config, seed=0).make(mixed(), torch.arange(24), epoch=0)) == 3
    with pytest.raises(ValueError, match="give each one number per view"):
        ViewsConfig(blur=(1.0,))
    with pytest.raises(ValueError, match="small is 2, but at least one of the 2 views must be large"):
        ViewsConfig(small=2)
    with pytest.raises(ValueError, match="small_scale is"):
        ViewsConfig(small_scale=(0.2, 0.1))
    with pytest.raises(ValueError, match="hue is"):
        ViewsConfig(hue=0.5)
    with pytest.raises(ValueError, match="scale is"):
        ViewsConfig(scale=(1.0, 0.2))
