"""Mixed model for repeated measures: effects at each visit, unstructured covariance over visits. Nothing is trained.

Every visit has coefficients of its own, an intercept of each site among them; see `fedhealth.metrics.effect`.
"""

from fedhealth.learning.models.ancova import ENDPOINTS, HAS_HIDDEN_LAYERS, loss, module, reading, size, start, tensors

__all__ = ["ENDPOINTS", "HAS_HIDDEN_LAYERS", "loss", "module", "reading", "size", "start", "tensors"]
