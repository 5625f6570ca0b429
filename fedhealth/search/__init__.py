"""Search at home: a hospital's own reports, letters, records and articles, found in medical language.

Invariants: nothing of it crosses the border, and nothing it reads, is asked or answers is in a log. `documents` is the
vocabulary all of it speaks; only `encoder` may load a model.
"""
