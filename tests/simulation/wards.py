"""A table of made-up patients of three hospitals, and a protocol that asks about them."""

import csv
import random

PROTOCOL = """
format = 1
name = "falls"
title = "Falls"
task = "diagnosis"
purpose = "a test"
legal_basis = "made-up patients"
data_set = "wards"
max_records_per_patient = 2
min_declared_patients = 20

[endpoint]
kind = "binary"
column = "fell"
positive_above = 0
positive = "fell"

[model]
kind = "logistic-regression"

[training]
rounds = 3
learning_rate = 1.0
l2_clip_norm = 1.0

[evaluation]
held_out_fraction = 0.3
each_site = true

[privacy]
unit = "patient"
delta = 1e-4
training_epsilon = 5.0
evaluation_epsilon = 5.0

[[features]]
kind = "number"
column = "age"
unit = "years"
range = [20, 100]
impute = 60

[[features]]
kind = "category"
column = "stick"
categories = ["yes", "no"]
"""

COLUMNS = ("ward", "person", "age", "stick", "fell")
WARDS = ("North", "South East", "west")


def patients(each=40):
    """Return rows of made-up patients, `each` of them in each ward."""
    draw = random.Random(5)  # noqa: S311 - made-up people
    rows = []
    for ward in WARDS:
        for number in range(each):
            age, stick = draw.randint(20, 100), draw.choice(["yes", "no"])
            rows.append((ward, f"{ward}-{number}", age, stick, int(draw.random() < (0.8 if age > 60 else 0.2))))
    draw.shuffle(rows)
    return rows


def write_table(path, rows, columns=COLUMNS):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path
