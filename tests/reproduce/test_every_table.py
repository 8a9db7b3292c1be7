"""`fra reproduce all`, small."""

from pathlib import Path

import pytest
import torch
from small_paper import records

from fra import cli
from fra.report.run import write_report
from fra.reproduce.supplement.scales import Scale
from fra.reproduce.supplement.tables import TABLES


@pytest.mark.slow
def test_every_table_from_nothing_on_drawn_faces(small_scale: Scale, tmp_path: Path) -> None:
    """The whole command at the scale smoke, on very few faces that it draws itself."""
    out = tmp_path / "out"
    assert cli.main(["reproduce", "all", "--scale", "smoke", "--out", str(out), "--workers", "0", "--quiet"]) == 0
    for name in TABLES:
        values = [float(row["value"]) for row in records(out, name)]
        assert len(values) > 5
        assert all(torch.tensor(values).isfinite())
    assert (out / "figure1.png").stat().st_size > 10_000
    page = write_report([out], out).read_text()
    assert page.count("Table ") >= 5
    assert "How the regions formed" in page
