"""All contact with Flower: the Grid over our link, the loop that drives Flower's strategies, its deployment engine.

Private pieces of Flower are used here and nowhere else, each with a contract test in
`tests/flower/test_flower_contract.py`. They may be elsewhere in another version, so nothing of this package can be
imported with one.
"""

from fedhealth.flower.version import check_flower

check_flower()
