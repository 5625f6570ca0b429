"""`site.toml`: who a hospital is and where its data are. Written by its administrator, read by the gate.

Only the site's id, the names of data sets and columns and `declared_patients` ever cross the border.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fedhealth.config import read_toml
from fedhealth.errors import ConfigInvalid

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class DataSet(BaseModel):
    """One table of patients' records.

    Attributes:
        name: what studies call it.
        file: a CSV file with a header, UTF-8, relative to the site's folder.
        patient_column: the column that names the patient; rows of one patient share its value. The administrator
            attests that it names patients and not visits.
        declared_patients: a public round figure near the number of patients, used for scaling and weights. It is
            never computed from the table, so it tells nothing about one patient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Name
    file: Path
    patient_column: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    declared_patients: Annotated[int, Field(ge=1, le=10**9)]


class SiteFile(BaseModel):
    """The whole of `site.toml`.

    Attributes:
        id: the site's name in the federation.
        title: its name for people.
        public_data: true only where the records are public already. It allows what would be a disclosure
            anywhere else: raw figures beside the private ones, and a split key that everyone knows.
        split_key: 64 hexadecimal digits; given exactly where `public_data` is true, so that anyone can rebuild
            the held-out split. Elsewhere the key is made at `site init` and kept by the gate.
        data_set: its table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: Name
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    public_data: bool = False
    split_key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    data_set: DataSet

    @model_validator(mode="after")
    def _split_key_is_public_only_with_public_data(self) -> Self:
        if self.public_data != (self.split_key is not None):
            raise ValueError("split_key is given exactly where public_data is true")
        return self


def load_site_file(folder: Path) -> SiteFile:
    """Read `site.toml` in a site's folder; the file of its data set becomes an absolute path.

    Raises:
        ConfigInvalid: missing or wrong, or the data file lies outside the site's folder.
    """
    site = read_toml(folder / "site.toml", SiteFile, "site file")
    file = (folder / site.data_set.file).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ConfigInvalid(
            f"site file {folder / 'site.toml'} points outside the site's folder",
            got=f"file = '{site.data_set.file}'",
            wanted="a path inside the folder",
            next_step="Move the file or correct the path.",
        )
    return site.model_copy(update={"data_set": site.data_set.model_copy(update={"file": file})})
