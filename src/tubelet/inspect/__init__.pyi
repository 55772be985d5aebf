from tubelet.inspect.budget.plan import plan as plan
from tubelet.inspect.budget.values import Plan as Plan
from tubelet.inspect.draw.frames import contact_sheet as contact_sheet
from tubelet.inspect.draw.frames import draw_grid as draw_grid
from tubelet.inspect.draw.packed import draw_packed as draw_packed
from tubelet.inspect.draw.token_maps import Point as Point
from tubelet.inspect.draw.tokens import draw_tokens as draw_tokens
