"""Open articles: corpora that hospitals publish, carried to all others, so that each searches them at home.

Invariants: nothing here knows a question, a patient or an index; whatever came from elsewhere is believed by its
publisher's signature and its hashes alone.
"""
