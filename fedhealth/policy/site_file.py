"""`site.toml`: who a hospital is and where its data are. Written by its administrator, read by the gate.

Only the site's id, the names of data sets and columns and `declared_patients` ever cross the border.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fedhealth.config import read_toml
from fedhealth.errors import ConfigInvalid
from fedhealth.table_source import ColumnType, TableFormat, TableSource, check_query, format_of

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class DataColumn(BaseModel):
    """A column as its administrator has seen it; a type only, never a value or a range.

    Attributes:
        name: as in the header.
        type: what it holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, StringConstraints(min_length=1)]
    type: ColumnType


class DataSet(BaseModel):
    """One table of patients' records.

    Attributes:
        name: what studies call it.
        file: relative to the site's folder; CSV is UTF-8, comma-separated, with a header.
        format: how the file is written; told by the name's end if not given.
        query: what a database is asked, one SELECT. Each row rests on the records of its own patient alone; that is
            attested by the administrator.
        columns: what there was when the data set was connected (`fedhealth site data add`), for telling what changed.
        patient_column: the column that names the patient; rows of one patient share its value. The administrator
            attests that it names patients and not visits.
        declared_patients: a public round figure near the number of patients, used for scaling and weights. It is
            never computed from the table, so it tells nothing about one patient.
        split_column: for public data alone, the column that says "train" or "test" of each patient, in place of the
            keyed split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Name
    file: Path
    format: TableFormat | None = None
    query: Annotated[str, StringConstraints(min_length=1, max_length=20_000)] | None = None
    patient_column: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    declared_patients: Annotated[int, Field(ge=1, le=10**9)]
    split_column: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    columns: Annotated[tuple[DataColumn, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _query_fits_the_format(self) -> Self:
        check_query(self.query, self.source.format)
        return self

    @model_validator(mode="after")
    def _columns_name_the_patient_once(self) -> Self:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("columns name a column twice")
        patient = [column.name for column in self.columns if column.type == "patient"]
        if self.columns and patient != [self.patient_column]:
            raise ValueError(f"columns give type 'patient' to {patient}, wanted patient_column alone")
        return self

    @model_validator(mode="after")
    def _split_column_is_no_patient_column(self) -> Self:
        if self.split_column == self.patient_column:
            raise ValueError(f"split_column and patient_column are both '{self.split_column}'")
        return self

    @property
    def source(self) -> TableSource:
        """What to read."""
        return TableSource(self.file, self.format or format_of(self.file), self.query)


class SiteFile(BaseModel):
    """The whole of `site.toml`.

    Attributes:
        id: the site's name in the federation.
        title: its name for people.
        public_data: true only where the records are public already. It allows what would be a disclosure
            anywhere else: raw figures beside the private ones, a split key that everyone knows, and a split that
            the table itself states.
        split_key: 64 hexadecimal digits; given exactly where `public_data` is true, so that anyone can rebuild
            the held-out split. Elsewhere the key is made at `site init` and kept by the gate.
        data_set: its table.
        device: what networks of images are computed on; "auto" takes a GPU where there is one that CUDA can use, else
            the processor. With "cuda" a gate without one does not start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: Name
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    public_data: bool = False
    split_key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    data_set: DataSet
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _split_key_is_public_only_with_public_data(self) -> Self:
        if self.public_data != (self.split_key is not None):
            raise ValueError("split_key is given exactly where public_data is true")
        return self

    @model_validator(mode="after")
    def _split_is_stated_only_with_public_data(self) -> Self:
        if self.data_set.split_column is not None and not self.public_data:
            raise ValueError(
                "split_column is allowed only where public_data is true; elsewhere the site's own key decides who is "
                "held out: leave it out"
            )
        return self


def load_site_file(folder: Path) -> SiteFile:
    """Read `site.toml` in a site's folder; the file of its data set becomes an absolute path.

    Raises:
        ConfigInvalid: missing or wrong, or the data file lies outside the site's folder.
    """
    site = read_toml(folder / "site.toml", SiteFile, "site file")
    file = file_inside(folder, site.data_set.file)
    return site.model_copy(update={"data_set": site.data_set.model_copy(update={"file": file})})


def file_inside(folder: Path, file: Path) -> Path:
    """Return where a data file is, absolute and without links.

    Args:
        folder: the site's folder; the only place where a gate may read data.
        file: relative to it.

    Raises:
        ConfigInvalid: it lies outside, or a link leads out.
    """
    place = (folder / file).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ConfigInvalid(
            f"site file {folder / 'site.toml'} points outside the site's folder",
            got=f"file = '{file}'",
            wanted="a path inside the folder",
            next_step="Move the file or correct the path.",
        )
    return place
