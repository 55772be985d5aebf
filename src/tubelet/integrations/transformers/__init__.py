"""tubelet in transformers: importing this registers config, model, image processor and attention; see `model`."""

from tubelet.integrations.transformers import model as model
from tubelet.integrations.transformers.model import TubeletImageProcessor as TubeletImageProcessor
from tubelet.integrations.transformers.model import TubeletModel as TubeletModel
