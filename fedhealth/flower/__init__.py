"""All contact with Flower: the Grid over our link, and the loop that drives Flower's strategies.

Private pieces of Flower used here, each with a contract test in `tests/flower`: `flwr.supercore.task_identity`
(a `Message` reads the run and node ids of the process there) and `flwr.supercore.run.Run` (the type of `Grid.run`).
"""
