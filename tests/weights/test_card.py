"""The card beside weights says what they are, whoever made them."""

from fra.weights.card import card, run_card, table

SUMMARY = dict(
    method="fra", encoder="resnet18", image_size=64, faces=6000, epochs=3, steps=3000, unreadable=["a.jpg"],
    pairs_per_second=12.5,
)  # fmt: skip


def test_a_card_is_a_title_a_beginning_and_sections() -> None:
    text = card("mine", "First.", {"Facts": table([("a", 1), ("b", "two")]), "Use": "None."})
    assert text == "# mine\n\nFirst.\n\n## Facts\n\n| | |\n|---|---|\n| a | 1 |\n| b | two |\n\n## Use\n\nNone.\n"


def test_a_runs_card_says_what_was_trained_and_how_healthy_it_is() -> None:
    metadata = dict(library="fra 0.1.0", recipe_hash="abc", crop={"detector": "retinaface", "size": 128})
    health = {"epoch": "3", "effective_rank": "11.2", "pair_auc": "", "warning": "Features are collapsing."}
    text = run_card("mine", SUMMARY, metadata, health)
    for line in (
        "| trained on | 6,000 face crops, 3 epochs, 3,000 steps |",
        "| crops | detector: retinaface, size: 128 |",
        "| could not be read | 1 image |",
        "| effective_rank | 11.2 |",
        'Load it with `fra.load_encoder("mine")`; the whole recipe is in `recipe.yaml`.',
    ):
        assert f"{line}\n" in text
    assert "| warning" not in text
    assert "| pair_auc" not in text
    assert "\nFeatures are collapsing.\n" in text
    assert "unknown (not made by `fra crop`)" in run_card("mine", SUMMARY, metadata | {"crop": None}, {})
    assert "\nNo warning.\n" in run_card("mine", SUMMARY, metadata, health | {"warning": ""})
