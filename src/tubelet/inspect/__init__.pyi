from tubelet.inspect.budget.plan import plan as plan
from tubelet.inspect.budget.values import Plan as Plan
from tubelet.inspect.draw.frames import contact_sheet as contact_sheet
from tubelet.inspect.draw.frames import draw_grid as draw_grid
