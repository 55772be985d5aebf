from tubelet.reduce.methods import METHODS as METHODS
from tubelet.reduce.methods import Choice as Choice
from tubelet.reduce.methods import Inputs as Inputs
from tubelet.reduce.methods import choose as choose
