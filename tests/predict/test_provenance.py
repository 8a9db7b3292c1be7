"""What is said of where a trained task's answers come from."""

from fra.predict.provenance import Provenance
from fra.predict.task_model import load_task_model

LEARNED = {
    "of": "expression",
    "from": "rafdb",
    "terms": "non-commercial research only",
    "images": 12271,
    "encoder": "laptop",
    "metric": "accuracy",
    "score": 66.38,
    "test_images": 1534,
    "temperature": 1.3,
}


def test_a_sentence_names_labels_score_licence_and_calibration() -> None:
    found = Provenance.of(LEARNED, source="rafdb", encoder="laptop", calibrated=True).sentence()
    assert found == (
        "trained on 12,271 faces of rafdb, encoder laptop; accuracy 66.4 % on 1,534 test faces; probabilities are "
        "calibrated; licence: rafdb's (non-commercial research only)"
    )


def test_points_have_no_probabilities_and_ages_no_percent() -> None:
    points = Provenance.of(LEARNED | {"metric": "nme", "score": 4.2}, source="300w", encoder="laptop", calibrated=None)
    assert "landmark error (NME) 4.2 % on" in points.sentence()
    assert "probabilities" not in points.sentence()
    ages = Provenance.of(LEARNED | {"metric": "mae", "score": 10.15}, source="table", encoder="a", calibrated=None)
    assert "mean absolute error 10.2 on" in ages.sentence()


def test_less_is_said_of_a_task_that_says_less() -> None:
    found = Provenance.of({}, source="rafdb", encoder="runs/me", calibrated=False).sentence()
    assert found == (
        "trained on rafdb, encoder runs/me; probabilities are not calibrated; licence: that of its training faces"
    )


def test_the_bundled_task_says_what_its_card_says() -> None:
    known = load_task_model("laptop_age").provenance
    assert known.sentence() == (
        "trained on 20,000 faces of fairface, encoder laptop; accuracy 47.4 % on 3,000 test faces; probabilities are "
        "calibrated; licence: CC BY 4.0"
    )
    assert "Not for deciding anything about a person" in known.not_for
