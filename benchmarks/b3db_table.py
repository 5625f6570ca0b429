"""Make the table of blood-brain-barrier.toml of B3DB's public data: one row a compound, each of one source.

B3DB (Meng et al., "A curated diverse molecular database of blood-brain barrier permeability", Scientific Data 2021) is
in the package `qc-b3db` (extra `studies`), CC0. It merged 50 sources. A compound has one row here, also where several
sources report it: it belongs to the first that is named, so that no two hospitals hold one row of B3DB. Sources of
fewer than 100 compounds are one, called "others".

| column | of B3DB_classification.tsv |
|---|---|
| compound | NO. |
| smiles | SMILES |
| bbb | BBB+/BBB-: whether it passes the blood-brain barrier |
| source | the first of `reference` |

Run: .venv/bin/python benchmarks/b3db_table.py FILE.csv
"""

import argparse
import csv
from collections import Counter
from importlib.metadata import distribution
from pathlib import Path

from fedhealth.records.table import Table

COLUMNS = ("compound", "smiles", "bbb", "source")
LEAST, OTHERS = 100, "others"
_FILE = "B3DB/B3DB_classification.tsv"


def main() -> None:
    """Write the table as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    table = b3db_table()
    with parser.parse_args().file.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([table.columns, *(cells for _, cells in table.rows)])


def b3db_table() -> Table:
    """Return the table."""
    path = Path(str(distribution("qc-b3db").locate_file(_FILE)))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    first = [row["reference"].split("|")[0] for row in rows]
    compounds = Counter(first)
    sources = [source if compounds[source] >= LEAST else OTHERS for source in first]
    cells = [(row["NO."], row["SMILES"], row["BBB+/BBB-"], source) for row, source in zip(rows, sources, strict=True)]
    return Table(path, COLUMNS, tuple(enumerate(cells, 2)))


if __name__ == "__main__":
    main()
