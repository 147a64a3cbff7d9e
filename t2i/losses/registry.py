"""The losses that a run can have beside the adversarial one. A new one is its file and a line here."""

from t2i.losses.base import Term
from t2i.losses.contrastive import Contrastive
from t2i.losses.energy import EnergyScore
from t2i.losses.word_region import WordRegion

TERMS: dict[str, type[Term]] = {term.name: term for term in (Contrastive, WordRegion, EnergyScore)}
