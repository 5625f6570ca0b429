"""One step of logistic regression on a hospital's table, with torch."""

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the weights after one step over all patients of this hospital."""
    table = np.load(str(context.node_config["table"]))
    features, labels = torch.from_numpy(table["features"]), torch.from_numpy(table["labels"])
    weights = torch.from_numpy(message.content.array_records["arrays"]["weights"].numpy().copy()).requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(features @ weights, labels)
    loss.backward()
    with torch.no_grad():
        weights -= float(str(message.content.config_records["config"]["learning-rate"])) * weights.grad
    arrays = ArrayRecord({"weights": Array(weights.detach().numpy())})
    metrics = MetricRecord({"num-examples": len(labels), "loss": loss.item()})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
