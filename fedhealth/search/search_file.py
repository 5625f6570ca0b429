"""`search.toml`: what a hospital's own search engine reads. Written by its administrator, beside `site.toml`.

Nothing of it crosses the border. Everything that is named lies in the site's folder, the only place where the gate's
domain may read data; a patient is named as the patient column of the site's data set does, so that who is forgotten
there is forgotten here.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from fedhealth.config import read_toml
from fedhealth.errors import ConfigInvalid
from fedhealth.policy.site_file import Name, file_inside
from fedhealth.search.documents import CodeSystem, Language
from fedhealth.table_source import QUERIED, TableFormat, TableSource, format_of

SEARCH_FILE = "search.toml"

Column = Annotated[str, StringConstraints(min_length=1, max_length=100)]
PatientKind = Literal["report", "letter", "record", "image-text"]

_FIELD = re.compile(r"\{(\w+)\}")
_FILE_FIELDS = ("patient", "date", "title", "*")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Source(_Part):
    """What every source says.

    Attributes:
        name: what the source is called; documents are known by it, so another name makes other documents.
        path: a file or a folder, relative to the site's folder.
        language: of all its documents; found in each text if not given.
    """

    name: Name
    path: Path
    language: Language | None = None


class TableFile(_Part):
    """A file that holds a table.

    Attributes:
        path: relative to the site's folder; CSV has a header.
        format: how it is written; told by the name's end if not given.
        query: what a database is asked, one SELECT.
        delimiter: what stands between cells of CSV; if not given, that by which the header has all columns named here.
        encoding: of CSV; if not given UTF-8, and where a cell is not, told by its letters and said.
    """

    path: Path
    format: TableFormat | None = None
    query: Annotated[str, StringConstraints(min_length=1, max_length=20_000)] | None = None
    delimiter: Literal[",", ";", "\t", "|"] | None = None
    encoding: Literal["utf-8", "windows-1252", "iso-8859-15", "cp850", "mac-roman", "utf-16"] | None = None

    @model_validator(mode="after")
    def _query_fits_the_format(self) -> Self:
        if (self.query is not None) != ((self.format or format_of(self.path)) in QUERIED):
            raise ValueError("query is given exactly where the format is duckdb or sqlite")
        if (self.delimiter or self.encoding) and (self.format or format_of(self.path)) != "csv":
            raise ValueError("delimiter and encoding are of CSV files")
        return self

    def table_source(self, folder: Path) -> TableSource:
        """Return what to read, below the site's folder.

        Raises:
            ConfigInvalid: it lies outside.
        """
        return TableSource(_inside(folder, self.path), self.format or format_of(self.path), self.query)


class CodeColumn(_Part):
    """A column of codes.

    Attributes:
        column: its name; a cell may hold several codes, with spaces, commas or semicolons between.
        system: what they are codes of. Cells that are none of this system are passed over.
        when_column: only in rows where this column ...
        when_value: ... holds this, such as `icd_version` and `10`.
    """

    column: Column
    system: CodeSystem
    when_column: Column | None = None
    when_value: str | None = None

    @model_validator(mode="after")
    def _condition_is_whole(self) -> Self:
        if (self.when_column is None) != (self.when_value is None):
            raise ValueError("when_column and when_value are given together")
        return self


class Tables(_Source, TableFile):
    """A table whose rows are documents, or parts of documents.

    Attributes:
        reader: "table".
        kind: of its documents.
        patient_column: names the patient, as the site's data set does.
        document_column: rows with the same value here are one document; without it each row is one.
        text_columns: what is read, in this order.
        title_column: the document's title.
        date_column: when it was written, such as 2024-05-31.
        age_column: of the patient at that date, in years.
        sex_column: of the patient.
        codes: columns of codes.
    """

    reader: Literal["table"]
    kind: PatientKind = "report"
    patient_column: Column
    document_column: Column | None = None
    text_columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=100)]
    title_column: Column | None = None
    date_column: Column | None = None
    age_column: Column | None = None
    sex_column: Column | None = None
    codes: Annotated[tuple[CodeColumn, ...], Field(max_length=100)] = ()


class TextFiles(_Source):
    """A folder of files of plain text, RTF or PDF, one document each.

    Attributes:
        reader: "text".
        kind: of its documents.
        names: how the files' paths below the folder say whose they are, such as `{patient}/{date} {title}.txt`;
            `{*}` is anything, such as in `{title}.{*}`. Files of another name are left out and named.
    """

    reader: Literal["text"]
    kind: PatientKind = "letter"
    names: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "{patient}/{title}.txt"

    @model_validator(mode="after")
    def _names_name_the_patient(self) -> Self:
        fields = [field for field in re.findall(r"\{([^}]*)\}", self.names) if field != "*"]
        if "patient" not in fields or set(fields) - set(_FILE_FIELDS) or len(set(fields)) != len(fields):
            raise ValueError("names has {patient}, and may have {date} and {title}, each once, and {*}")
        return self


class FhirFiles(_Source):
    """FHIR R4: bundles or single resources (`.json`), bulk exports with one resource a line (`.ndjson`).

    Attributes:
        reader: "fhir".
        patient_identifier: the system of the identifier that names patients as the site's data set does; without it
            the patient's id does.
    """

    reader: Literal["fhir"]
    patient_identifier: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None


class DicomFiles(_Source):
    """A folder of DICOM files: the words of headers, one document a study, and structured reports.

    The patient is who PatientID names.

    Attributes:
        reader: "dicom".
    """

    reader: Literal["dicom"]


class Articles(_Source):
    """Articles, one JSON object a line (`.jsonl`). They are of no patient.

    Attributes:
        reader: "articles".
        key_field: names the article; the first of `pmid`, `_id`, `id` that a line has, if not given.
        title_field: its title.
        text_fields: what is read, in this order; the first of `abstract`, `text`, `contents` if not given.
        date_field: when it appeared; a year will do.
    """

    reader: Literal["articles"]
    key_field: Column | None = None
    title_field: Column = "title"
    text_fields: Annotated[tuple[Column, ...], Field(max_length=20)] = ()
    date_field: Column = "year"


class People(TableFile):
    """A table with one row a patient, for sources that do not say age and sex themselves.

    Attributes:
        patient_column: names the patient.
        sex_column: of the patient.
        birth_column: date or year of birth; for ages.
        age_column: age in years in the year of `age_year_column`; where there is no date of birth.
        age_year_column: that year.
    """

    patient_column: Column
    sex_column: Column | None = None
    birth_column: Column | None = None
    age_column: Column | None = None
    age_year_column: Column | None = None

    @model_validator(mode="after")
    def _age_is_whole(self) -> Self:
        if (self.age_column is None) != (self.age_year_column is None):
            raise ValueError("age_column and age_year_column are given together")
        return self


Source = Annotated[Tables | TextFiles | FhirFiles | DicomFiles | Articles, Field(discriminator="reader")]


class AccessLog(_Part):
    """What is kept of who was shown what.

    Attributes:
        keep_months: for so many months beside the present one; older ones are removed.
        questions: whether the words of a question are kept; they may name a patient.
    """

    keep_months: Annotated[int, Field(ge=1, le=240)] = 12
    questions: bool = False


class SearchFile(_Part):
    """The whole of `search.toml`.

    Attributes:
        sources: what is read, in this order.
        people: who the patients are, if a table says so.
        access_log: what is kept of who was shown what.
    """

    sources: Annotated[tuple[Source, ...], Field(min_length=1, max_length=200)]
    people: People | None = None
    access_log: AccessLog = AccessLog()

    @model_validator(mode="after")
    def _names_are_different(self) -> Self:
        names = [source.name for source in self.sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sources of one name: {', '.join(twice)}")
        return self


def load_search_file(folder: Path) -> SearchFile:
    """Read `search.toml` in a site's folder.

    Raises:
        ConfigInvalid: missing or wrong, or a source lies outside the site's folder.
    """
    if not (folder / SEARCH_FILE).exists():
        raise ConfigInvalid(
            f"nothing says what is to be searched: there is no {folder / SEARCH_FILE}",
            wanted="a file with [[sources]]",
            next_step="Write it; docs/search.md has an example for each kind of source.",
        )
    found = read_toml(folder / SEARCH_FILE, SearchFile, "search file")
    for source in (*found.sources, *([found.people] if found.people else [])):
        _inside(folder, source.path)
    return found


def _inside(folder: Path, path: Path) -> Path:
    try:
        return file_inside(folder, path)
    except ConfigInvalid as error:
        raise ConfigInvalid(
            f"search file {folder / SEARCH_FILE} points outside the site's folder",
            got=f"path = '{path}'",
            wanted="a path inside the folder",
            next_step="Move or copy it there: nothing else may be read.",
        ) from error
