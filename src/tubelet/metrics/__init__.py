"""How good a choice of rows is, in numbers that come with their intervals.

    coverage, distance, concentration, coherence     where the kept rows lie             tubelet.metrics.places
    selectivity                                      how uneven the scores are           tubelet.metrics.places
    reconstruction, log_volume                       what they still say of the others   tubelet.metrics.features
    linear_cka, token_cosine                         two encoders on the same rows       tubelet.metrics.features
    recall, relevance_over_random                    rows in annotated boxes             tubelet.metrics.boxes
    alignment                                        pictures and texts                  tubelet.metrics.alignment
    timed, latency_ratio                             time, stage by stage                tubelet.metrics.latency
    anls, relaxed_accuracy, vqa_accuracy, paired     answers, and two methods on them    tubelet.metrics.answers
    summary                                          what choices are compared by        tubelet.metrics.summary

Each gives `Estimate`s, which cannot be printed without their interval. SHIRG's own formulas are in
tubelet.metrics.upstream. What a language model answers takes a task.
"""

from tubelet.metrics.alignment import Alignment as Alignment
from tubelet.metrics.alignment import alignment as alignment
from tubelet.metrics.answers import Paired as Paired
from tubelet.metrics.answers import anls as anls
from tubelet.metrics.answers import paired as paired
from tubelet.metrics.answers import relaxed_accuracy as relaxed_accuracy
from tubelet.metrics.answers import vqa_accuracy as vqa_accuracy
from tubelet.metrics.boxes import Recall as Recall
from tubelet.metrics.boxes import recall as recall
from tubelet.metrics.boxes import relevance_over_random as relevance_over_random
from tubelet.metrics.estimate import Estimate as Estimate
from tubelet.metrics.features import linear_cka as linear_cka
from tubelet.metrics.features import log_volume as log_volume
from tubelet.metrics.features import reconstruction as reconstruction
from tubelet.metrics.features import token_cosine as token_cosine
from tubelet.metrics.intervals import mean_of as mean_of
from tubelet.metrics.intervals import quantile_of as quantile_of
from tubelet.metrics.intervals import share_of as share_of
from tubelet.metrics.latency import Ratio as Ratio
from tubelet.metrics.latency import Times as Times
from tubelet.metrics.latency import latency_ratio as latency_ratio
from tubelet.metrics.latency import timed as timed
from tubelet.metrics.places import Distance as Distance
from tubelet.metrics.places import coherence as coherence
from tubelet.metrics.places import concentration as concentration
from tubelet.metrics.places import coverage as coverage
from tubelet.metrics.places import distance as distance
from tubelet.metrics.places import gini as gini
from tubelet.metrics.places import selectivity as selectivity
from tubelet.metrics.summary import summary as summary
