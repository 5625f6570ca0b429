"""Make the table and images of the brain tumour studies: lower-grade glioma, MRI slices and the same patients' data.

76 patients of four hospitals of The Cancer Genome Atlas, of whom one has a single patient: FLAIR slices, up to five in
which the tumour is seen and three without it, and clinical and molecular data (Buda, Saha and Mazurowski, Comput. Biol.
Med. 2019; images CC BY 3.0). Codes in the table are the source's own numbers.

The outlines of tumours in the source are CC BY-NC-SA 4.0, for benchmarks alone. Of them one thing is here, whether a
slice has one, as the label; no outline is ever an input, and none is written.

| column | what |
|---|---|
| patient, hospital | TCGA's numbers; the hospital is the two letters after `TCGA_` |
| slice, depth | number of the slice, and the same as a share of how many the patient has, 0 to 1 |
| image | the slice, a file below the table's folder: NumPy, uint8, 128 x 128, FLAIR |
| tumour | yes or no |
| all others | of clinical_genomic.csv, a patient's in each row; `cluster` is COCCluster, the cluster of clusters |

Run: .venv/bin/python benchmarks/lgg_hospitals.py FOLDER     (writes FOLDER/slices.csv and FOLDER/images)
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from fedhealth.records.table import Table

SOURCE = Path(__file__).resolve().parents[2] / "shared" / "data" / "brain_lgg"
HOSPITALS = ("CS", "DU", "FG", "EZ")
"""The last has one patient."""

CLINICAL = {
    "cluster": "COCCluster",
    "rna_cluster": "RNASeqCluster",
    "methylation_cluster": "MethylationCluster",
    "mirna_cluster": "miRNACluster",
    "copy_number_cluster": "CNCluster",
    "protein_cluster": "RPPACluster",
    "oncosign_cluster": "OncosignCluster",
    "histology": "histological_type",
    "grade": "neoplasm_histologic_grade",
    "laterality": "laterality",
    "location": "tumor_location",
    "sex": "gender",
    "age": "age_at_initial_pathologic",
    "race": "race",
    "ethnicity": "ethnicity",
    "died": "death01",
}
"""By the table's column, the source's."""

COLUMNS = ("patient", "hospital", "slice", "depth", "image", "tumour", *CLINICAL)


def main() -> None:
    """Write the table and the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    table = write_hospitals(parser.parse_args().folder)
    print(f"{len(table.rows)} slices in {table.path}")


def write_hospitals(folder: Path, source: Path = SOURCE) -> Table:
    """Write `slices.csv` and the images below a folder, which is made; return the table.

    Raises:
        FileNotFoundError: the source is not there.
    """
    with (source / "clinical_genomic.csv").open(newline="", encoding="utf-8") as file:
        clinical = {row["Patient"]: row for row in csv.DictReader(file)}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    cells = []
    for hospital in HOSPITALS:
        with np.load(source / f"lgg_flair_{hospital}.npz") as arrays:
            # Each is read once: an .npz decompresses an array whenever it is asked for.
            images, depths = arrays["flair"], arrays["slice"] / arrays["n_slices"]
            named = zip(arrays["patient"], arrays["slice"], depths, arrays["tumour"], strict=True)
            slices = [(str(patient), int(number), depth, bool(ill)) for patient, number, depth, ill in named]
        for image, (patient, number, depth, ill) in zip(images, slices, strict=True):
            name = f"images/{patient}_{number}.npy"
            np.save(folder / name, image)
            known = [_word_of(clinical[patient][column]) for column in CLINICAL.values()]
            cells.append((patient, hospital, str(number), f"{depth:.3f}", name, "yes" if ill else "no", *known))
    path = folder / "slices.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *cells])
    return Table(path, COLUMNS, tuple(enumerate(cells, 2)))


def _word_of(cell: str) -> str:
    return cell.removesuffix(".0")  # whole numbers with blanks among them, as the source wrote them


if __name__ == "__main__":
    main()
