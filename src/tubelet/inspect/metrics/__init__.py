"""How good a choice of rows is, in numbers that come with their intervals.

    coverage, distance, concentration, coherence     where the kept rows lie             tubelet.inspect.metrics.places
    selectivity                                      how uneven the scores are           tubelet.inspect.metrics.places
    reconstruction, log_volume                       what they still say of the others   inspect.metrics.features
    linear_cka, token_cosine                         two encoders on the same rows       inspect.metrics.features
    recall, relevance_over_random                    rows in annotated boxes             tubelet.inspect.metrics.boxes
    alignment                                        pictures and texts                  inspect.metrics.alignment
    timed, latency_ratio                             time, stage by stage                tubelet.inspect.metrics.latency
    anls, relaxed_accuracy, vqa_accuracy,            answers of a model                  tubelet.inspect.metrics.answers
    exact_match, option_accuracy, relative_accuracy
    paired                                           two methods on the same questions   tubelet.inspect.metrics.answers
    summary                                          what choices are compared by        tubelet.inspect.metrics.summary

Each gives `Estimate`s, which cannot be printed without their interval. SHIRG's own formulas are in
tests.golden.upstream.shirg_metrics. What a language model answers takes a task.
"""

from tubelet.inspect.metrics.alignment import Alignment as Alignment
from tubelet.inspect.metrics.alignment import alignment as alignment
from tubelet.inspect.metrics.answers import Paired as Paired
from tubelet.inspect.metrics.answers import anls as anls
from tubelet.inspect.metrics.answers import exact_match as exact_match
from tubelet.inspect.metrics.answers import option_accuracy as option_accuracy
from tubelet.inspect.metrics.answers import paired as paired
from tubelet.inspect.metrics.answers import refined_match as refined_match
from tubelet.inspect.metrics.answers import relative_accuracy as relative_accuracy
from tubelet.inspect.metrics.answers import relaxed_accuracy as relaxed_accuracy
from tubelet.inspect.metrics.answers import vqa_accuracy as vqa_accuracy
from tubelet.inspect.metrics.boxes import Recall as Recall
from tubelet.inspect.metrics.boxes import recall as recall
from tubelet.inspect.metrics.boxes import relevance_over_random as relevance_over_random
from tubelet.inspect.metrics.estimate import Estimate as Estimate
from tubelet.inspect.metrics.features import linear_cka as linear_cka
from tubelet.inspect.metrics.features import log_volume as log_volume
from tubelet.inspect.metrics.features import reconstruction as reconstruction
from tubelet.inspect.metrics.features import token_cosine as token_cosine
from tubelet.inspect.metrics.intervals import mean_of as mean_of
from tubelet.inspect.metrics.intervals import quantile_of as quantile_of
from tubelet.inspect.metrics.intervals import share_of as share_of
from tubelet.inspect.metrics.latency import Ratio as Ratio
from tubelet.inspect.metrics.latency import Times as Times
from tubelet.inspect.metrics.latency import latency_ratio as latency_ratio
from tubelet.inspect.metrics.latency import timed as timed
from tubelet.inspect.metrics.places import Distance as Distance
from tubelet.inspect.metrics.places import coherence as coherence
from tubelet.inspect.metrics.places import concentration as concentration
from tubelet.inspect.metrics.places import coverage as coverage
from tubelet.inspect.metrics.places import distance as distance
from tubelet.inspect.metrics.places import gini as gini
from tubelet.inspect.metrics.places import selectivity as selectivity
from tubelet.inspect.metrics.summary import summary as summary
