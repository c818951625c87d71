"""The merged ensemble: artefact, combiners, retrieval, metrics."""

from orchestrator.ensemble.ensemble import Ensemble, Prediction
from orchestrator.ensemble.evaluation import Evaluation, curve, evaluate
from orchestrator.ensemble.retrieval import ClassLists

__all__ = ["ClassLists", "Ensemble", "Evaluation", "Prediction", "curve", "evaluate"]
