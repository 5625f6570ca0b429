"""What a hospital has, as documents: tables, FHIR, DICOM, plain text, articles; and by place, what cannot be read."""
